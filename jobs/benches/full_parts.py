"""Parts of a pass one by one, for ``fdi bench``, section ``full_size``. Does NOT know how passes are put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fdi_lib.models.adapter import FDIAdapter, Guidance
from fdi_lib.models.attach import attached, composed
from fdi_lib.models.base import Base
from jobs.benches.timing import flops_of, median_seconds


class Parts:
    """Parts of a pass, on tiles that are on the device already; cutting, copying and blending are the rest.

    Args:
        base, adapter: on the device.
        tile_px: side of a tile.
        device: where.
    """

    def __init__(self, base: Base, adapter: FDIAdapter, tile_px: int, device: torch.device) -> None:
        self._base, self._adapter, self._tile_px, self._device = base, adapter, tile_px, device

    def _calls(self, batch: int) -> dict[str, Callable[[], Any]]:
        base, adapter = self._base, self._adapter
        image = torch.rand(batch, 3, self._tile_px, self._tile_px, device=self._device) * 2 - 1
        latent, weight_B = base.encode(image), torch.ones(batch, device=self._device)

        def guide() -> Guidance:
            with base.autocast():
                return composed([(adapter.guidance(image), weight_B)])

        def refine() -> None:
            with base.autocast():
                adapter.refine(latent, latent)

        guidance = guide()
        t_B = torch.full((batch,), 499, dtype=torch.int64, device=self._device)

        def unet() -> None:
            with attached(base, guidance):
                base.predict_clean(latent, t_B)

        return {
            "encode": lambda: base.encode(image),
            "guidance": guide,
            "unet": unet,
            "refine": refine,
            "decode": lambda: base.decode(latent),
        }

    @torch.no_grad()
    def flops(self) -> dict[str, int]:
        """Operations of one tile; the base is not compiled yet."""
        return {name: flops_of(call) for name, call in self._calls(1).items()}

    @torch.inference_mode()
    def seconds(self, batch: int) -> dict[str, float]:
        """Seconds of a batch."""
        return {name: median_seconds(call, 3, self._device) for name, call in self._calls(batch).items()}
