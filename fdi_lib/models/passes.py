"""One pass of the base over images, tile by tile, guided by one adapter or several together.

It knows neither decisions nor files, nor where adapters come from. Suffixes: B batch of tiles, C channels, H and W
height and width, N tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch

from fdi_lib.core.noise import noise_field
from fdi_lib.core.tone import has_view, whole_view
from fdi_lib.models.adapter import FDIAdapter, Guidance, Modulation
from fdi_lib.models.attach import composed
from fdi_lib.models.base import Base
from fdi_lib.models.sampling import Schedule, sample
from fdi_lib.models.tiles import Result, Tile, Tiling

_Refine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # degraded and output latents -> better output


@dataclass(frozen=True)
class _Step:
    """What is done to some images; see :meth:`Passes.run`."""

    names: tuple[str, ...]
    weights: list[np.ndarray]
    keys: list[int]
    schedule: Schedule

    def of(self, rows: list[int]) -> _Step:
        """The same for some of the images."""
        return replace(self, weights=[w[rows] for w in self.weights], keys=[self.keys[i] for i in rows])


class Passes:
    """What a restorer runs, step by step.

    Args:
        base: the frozen base.
        tiling: how images are cut.
        adapter: gives a loaded adapter by name.
        fidelity: whether the adapters' fidelity paths correct what the base returns.
    """

    def __init__(self, base: Base, tiling: Tiling, adapter: Callable[[str], FDIAdapter], fidelity: bool) -> None:
        self.tiling = tiling
        self._base, self._adapter, self._fidelity = base, adapter, fidelity

    @torch.inference_mode()
    def run(
        self,
        images: list[np.ndarray],
        names: tuple[str, ...],
        weights: list[np.ndarray],
        keys: list[int],
        schedule: Schedule,
        like: Sequence[np.ndarray | None],
        dtype: torch.dtype = torch.float32,
    ) -> list[Result]:
        """Restore images with adapters together.

        Args:
            images: as :meth:`Tiling.over` takes them.
            names: the adapters.
            weights: for each adapter one weight an image, float32.
            keys: of the images' noise.
            schedule: how the base samples.
            like: what the results shall be, see :class:`fdi_lib.models.tiles.Result`; values may be not finite.
            dtype: arithmetic of the forward passes (autocast); weights stay as they are.

        Raises:
            CapacityError: as :meth:`Tiling.fitting`.
        """
        step = _Step(names, weights, keys, schedule)

        def once() -> list[Result]:
            views: dict[int, np.ndarray] = {}
            if any(self._adapter(name).config.tone == "whole" for name in names):
                side = self.tiling.tile_px
                large = [i for i, image in enumerate(images) if has_view(image.shape, side)]
                made = self._tiled([whole_view(images[i], side) for i in large], step.of(large))
                views = {i: result.pixels for i, result in zip(large, made, strict=True)}
            return self._tiled(images, step, like, views)

        with torch.autocast(self.tiling.device.type, dtype, enabled=dtype != torch.float32):
            return self.tiling.fitting(once)

    def _tiled(
        self,
        images: list[np.ndarray],
        step: _Step,
        like: Sequence[np.ndarray | None] | None = None,
        views: Mapping[int, np.ndarray] = MappingProxyType({}),
    ) -> list[Result]:
        """Restore tile by tile; ``views`` as for :meth:`Tiling.over`."""
        shared = self._shared_modulation(images, step)

        def make(group: list[Tile], image_BCHW: torch.Tensor) -> torch.Tensor:
            guidance = self._guidance(image_BCHW, group, step)
            if shared is not None:
                rows = [t.image for t in group]
                guidance = replace(guidance, modulations=[(h[rows], g[rows], b[rows]) for h, g, b in shared])
            latent = self._base.encode(image_BCHW)
            out = sample(self._base, latent, guidance, step.schedule, self._noise(latent, group, step))
            if self._fidelity:
                for name in step.names:
                    out = self._adapter(name).refine(latent, out)
            return out

        return self.tiling.over(images, make, like, views)

    @torch.inference_mode()
    def without_base(self, images: list[np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        """Images through the latent space and the fidelity path of each adapter; without names there and back."""
        refiners: list[_Refine] = [self._adapter(name).refine for name in names] or [lambda _, output: output]
        for refine in refiners:

            def make(_: list[Tile], image_BCHW: torch.Tensor, refine: _Refine = refine) -> torch.Tensor:
                latent = self._base.encode(image_BCHW)
                return refine(latent, latent)

            images = [result.pixels for result in self.tiling.over(images, make)]
        return images

    def _guidance(self, image_BCHW: torch.Tensor, group: list[Tile], step: _Step) -> Guidance:
        rows = [t.image for t in group]
        return composed(
            [
                (self._adapter(n).guidance(image_BCHW), torch.from_numpy(w[rows]).to(self.tiling.device))
                for n, w in zip(step.names, step.weights, strict=True)
            ]
        )

    def _shared_modulation(self, images: list[np.ndarray], step: _Step) -> list[Modulation] | None:
        """Each image's mean modulation over its tiles, so that tiles don't differ in tone; None if all fit one tile."""
        tiles = self.tiling.tiles(images)
        if len(tiles) == len(images):
            return None
        looks = [self._guidance(image_BCHW, group, step).modulations
                 for group, image_BCHW in self.tiling.batches(images, tiles)]  # fmt: skip
        owner_N = torch.tensor([t.image for t in tiles], device=self.tiling.device)

        def mean_by_image(level: int, part: int) -> torch.Tensor:
            of_tiles = torch.cat([look[level][part] for look in looks])[: len(tiles)]
            return torch.stack([of_tiles[owner_N == i].mean(0) for i in range(len(images))])

        return [(mean_by_image(i, 0), mean_by_image(i, 1), mean_by_image(i, 2)) for i in range(len(looks[0]))]

    def _noise(self, latent: torch.Tensor, group: list[Tile], step: _Step) -> torch.Tensor | None:
        if step.schedule.init in ("input", "ddim_inversion"):
            return None
        factor, (channels, height, width) = self._base.latent_factor, latent.shape[1:]
        fields = [noise_field(step.keys[t.image], t.y // factor, t.x // factor, height, width, channels) for t in group]
        return torch.from_numpy(np.stack(fields)).to(self.tiling.device)
