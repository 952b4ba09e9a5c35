"""What a sample is: a function of seed and sample index, never of the process that computes it.

The global batch of step ``s`` are the samples ``s * batch ... s * batch + batch - 1``; of ``world`` processes, the one
of rank ``r`` takes every ``world``-th of them from the ``r``-th on. So one process, several, or another number of them
after an interruption see the same samples in the same steps. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fdi_lib.training.crops import PairSource

Batch = dict[str, torch.Tensor]
_ALONE = 1 / 3  # of the samples of adapters that are trained together
_WEIGHTS = (0.6, 1.25)  # of two
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))  # axes of B,C,H,W


@dataclass(frozen=True)
class Shard:
    """The part of every global batch that one of ``world`` processes computes."""

    rank: int
    world: int
    batch: int

    def __len__(self) -> int:
        """Samples a step."""
        return len(range(self.rank, self.batch, self.world))

    def indices(self, step: int) -> range:
        """Sample indices of one step."""
        return range(step * self.batch + self.rank, (step + 1) * self.batch, self.world)


@dataclass(frozen=True)
class Samples:
    """Makes samples from pairs.

    Args:
        pairs: what to draw from.
        crop_px: side of a crop.
        seed: with the index, the key of everything random.
        latent: channels and reduction factor of the base's latent; None leaves noise and time step out.
        levels: time steps are drawn from ``0 ... levels - 1``.
        crops: after so many samples the same crops return, with other noise and time steps; 0: never.
        kinds: degradations of adapters that are trained together; 0: there is one adapter.
    """

    pairs: PairSource
    crop_px: int
    seed: int
    latent: tuple[int, int] | None = None
    levels: int = 1
    crops: int = 0
    kinds: int = 0

    def rows(self, indices: Iterable[int]) -> dict[str, np.ndarray]:
        """Columns ``degraded`` and ``clean``, float32 NHW3 in [0, 1]; ``noise``, float32 NCHW; ``t``, int64.

        Where crops return, ``crop``, int64: equal numbers are equal crops. Of several adapters, ``weight``, float32 NK.
        """
        wanted = list(indices)
        numbers = [i % self.crops if self.crops else i for i in wanted]
        crops = [self.pairs.crop(number, self.crop_px, self.seed) for number in numbers]
        degraded, clean = (np.stack(side).astype(np.float32, copy=False) for side in zip(*crops, strict=True))
        rows = {"degraded": degraded, "clean": clean}
        if self.crops:
            rows["crop"] = np.array(numbers, np.int64)
        if self.kinds:
            rows["weight"] = np.stack([shares(number, self.seed, self.kinds) for number in numbers])
        if self.latent is not None:
            channels, factor = self.latent
            side = self.crop_px // factor
            keyed = [np.random.default_rng([self.seed, 7, i]) for i in wanted]
            rows["t"] = np.array([rng.integers(self.levels) for rng in keyed], np.int64)
            rows["noise"] = np.stack([rng.standard_normal((channels, side, side), np.float32) for rng in keyed])
        return rows


def shares(index: int, seed: int, kinds: int) -> np.ndarray:
    """Which of several degradations a sample has, and the weights that their adapters get: float32, ``kinds`` numbers.

    One alone at weight 1, or two with weights as a classifier gives them, which knows amplitudes only roughly.
    """
    rng = np.random.default_rng([seed, 0x2F01D, index])
    weight_K = np.zeros(kinds, np.float32)
    if rng.random() < _ALONE:
        weight_K[rng.integers(kinds)] = 1
    else:
        weight_K[rng.choice(kinds, 2, replace=False)] = rng.uniform(*_WEIGHTS, 2)
    return weight_K


def to_batch(rows: Mapping[str, np.ndarray]) -> Batch:
    """Rows as tensors: images B3HW in [-1, 1], everything else as it is."""
    images = {k: torch.from_numpy(rows[k] * 2 - 1).permute(0, 3, 1, 2).contiguous() for k in ("degraded", "clean")}
    # A copy: rows may lie in memory that is shared and read-only.
    return images | {k: torch.from_numpy(np.array(rows[k])) for k in rows if k not in images}


def echoed(fresh: Callable[[int, int], Iterator[Batch]], start: int, steps: int, echo: int) -> Iterator[Batch]:
    """Batches for the steps ``start ... steps - 1``, each used for ``echo`` steps in a row.

    Data echoing (Choi et al., 2019), for devices that learn faster than samples are made. Again, a batch is seen
    mirrored: left to right, then top to bottom, then both. What a step sees still depends on its number alone.

    Args:
        fresh: (first, end) -> the batches of these numbers.
        start: first step.
        steps: behind the last one.
        echo: steps a batch, 1 to 4.
    """
    batches = fresh(start // echo, -(-steps // echo))
    for step in range(start, steps):
        if step == start or step % echo == 0:
            batch = next(batches)
        axes = _MIRRORS[step % echo]
        yield {name: v.flip(axes) if axes and v.ndim == 4 else v for name, v in batch.items()}
