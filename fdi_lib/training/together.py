"""Adapters that are trained together, for composite restoration: all of an image's adapters guide one pass of the base.

Adapters that were trained alone can't be added: each corrects the features by itself what the other corrects as well.
Here a sample has one degradation or two (:func:`fdi_lib.training.samples.shares`), and the adapters of those guide the
base as they will when images are restored: see :func:`fdi_lib.models.attach.composed`. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from fdi_lib.core.order import in_order_of_damage
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter, Guidance
from fdi_lib.models.attach import composed
from fdi_lib.models.base import Base
from fdi_lib.training.adapter import AdapterTraining, LossWeights
from fdi_lib.training.crops import PairSource, Tiles
from fdi_lib.training.pairs import SyntheticPairs
from fdi_lib.training.samples import Batch, Samples, shares


class MixedPairs(SyntheticPairs):
    """Clean tiles with one degradation, or with two in the order in which they happen, drawn anew for every sample.

    Args:
        tiles: as of :class:`SyntheticPairs`.
        tasks: names of the degradations; weights of a sample stand in this order.
    """

    def __init__(self, tiles: Tiles, tasks: Sequence[str]) -> None:
        super().__init__(tiles, "+".join(tasks))
        self._tasks = tuple(tasks)

    def damage(self, index: int, seed: int) -> list[str]:
        """See :meth:`SyntheticPairs.damage`."""
        weight_K = shares(index, seed, len(self._tasks))
        return in_order_of_damage(name for name, weight in zip(self._tasks, weight_K, strict=True) if weight)


class Together(nn.Module):
    """Several adapters of one base and start.

    Args:
        adapters: in the order of the weights.
    """

    def __init__(self, adapters: Sequence[FDIAdapter]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters)

    @property
    def config(self) -> AdapterConfig:
        """Of the first one: base, start and form are those of all."""
        return self[0].config

    def __len__(self) -> int:
        """Adapters."""
        return len(self.adapters)

    def __getitem__(self, k: int) -> FDIAdapter:
        """One of them."""
        return self.adapters[k]  # type: ignore[return-value]


class TogetherTraining(AdapterTraining):
    """Adapters on their base, with the loss of :class:`AdapterTraining` for what they make together.

    Every adapter looks at every sample, so that each of its parameters has a gradient, zero or not: workers that share
    gradients wait for all of them.
    """

    adapter: Together  # type: ignore[assignment]

    def __init__(self, base: Base, together: Together, weights: LossWeights, *, recompute: bool = False) -> None:
        super().__init__(base, together, weights, recompute=recompute)  # type: ignore[arg-type]

    def samples(self, pairs: PairSource, crop_px: int, seed: int, crops: int = 0) -> Samples:
        """See :meth:`AdapterTraining.samples`; with weights."""
        return replace(super().samples(pairs, crop_px, seed, crops), kinds=len(self.adapter))

    def _guidance_of(self, batch: Batch) -> Guidance:
        return composed([(a.guidance(batch["degraded"]), w_B) for a, w_B in self._weighted(batch)])

    def _refined(self, batch: Batch, latent: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """One fidelity path after the other, of the adapters that an image has: as in restoring."""
        for adapter, weight_B in self._weighted(batch):
            out = torch.where(weight_B[:, None, None, None] > 0, adapter.refine(latent, out), out)
        return out

    def _weighted(self, batch: Batch) -> Iterator[tuple[FDIAdapter, torch.Tensor]]:
        yield from zip((self.adapter[k] for k in range(len(self.adapter))), batch["weight"].T, strict=True)
