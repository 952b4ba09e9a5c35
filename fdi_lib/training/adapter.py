"""Trains one FDI adapter on a frozen base: degraded and clean crops in, an adapter folder out.

Only the adapter's parameters move; that is asserted at the start, and by the base's fingerprint at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fdi_lib.core.degrade import degrade
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.base import Base
from fdi_lib.models.sampling import Schedule, sample
from fdi_lib.training.base import augmented_crop
from fdi_lib.training.encoder import quantised
from fdi_lib.training.loop import Batch, FitSettings, fit

PairOf = Callable[[int], tuple[np.ndarray, np.ndarray]]  # sample index -> (degraded, clean), float32 HW3 in [0, 1]


def synthetic_pairs(tiles: np.ndarray, task: str, crop_px: int, seed: int) -> PairOf:
    """Pairs made on the fly from clean tiles (uint8 N,T,T,3), a function of seed and index only."""

    def pair_of(index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, index])
        clean = augmented_crop(tiles, crop_px, rng)
        return quantised(degrade(task, clean, rng)).astype(np.float32) / 255, clean

    return pair_of


def train_adapter(
    base: Base,
    config: AdapterConfig,
    fdi_TD: torch.Tensor,
    pair_of: PairOf,
    settings: FitSettings,
    batch: int,
    seed: int,
    folder: Path,
) -> FDIAdapter:
    """Train a fresh adapter and return it with averaged weights.

    The loss is the latent L1 between restored and true latents, without and with the fidelity path. With the one-step
    deterministic start it is the noise-prediction loss (Eq. 1) up to the level's constant factor.

    Args:
        base: frozen.
        config: the adapter's shape and schedule; ``steps`` must be 1 for training.
        fdi_TD: FDI tokens of the degradation.
        pair_of: see :data:`PairOf`.
        settings: length and rates.
        batch: samples a step.
        seed: of the adapter's first weights and of the noise.
        folder: receives log and checkpoint.
    """
    before = base.fingerprint()
    assert not any(p.requires_grad for p in base.parameters()), "the base is frozen"
    torch.manual_seed(seed)
    adapter = FDIAdapter(config, fdi_TD)
    schedule = Schedule(config.init, config.start_t, 1, 1.0)  # type: ignore[arg-type]

    def make_batch(step: int) -> Batch:
        pairs = [pair_of(step * batch + i) for i in range(batch)]
        degraded, clean = (np.stack(side) * 2 - 1 for side in zip(*pairs, strict=True))
        noise = np.random.default_rng([seed, 7, step]).standard_normal(
            (batch, 12, *(n // 2 for n in clean.shape[1:3])), np.float32
        )
        as_tensor = {"degraded": degraded, "clean": clean}
        return {k: torch.from_numpy(v).permute(0, 3, 1, 2).contiguous() for k, v in as_tensor.items()} | {
            "noise": torch.from_numpy(noise)
        }

    def loss_of(b: Batch) -> dict[str, torch.Tensor]:
        latent, target = base.encode(b["degraded"]), base.encode(b["clean"])
        out = sample(base, latent, adapter.guidance(b["degraded"]), schedule, b["noise"]).float()
        bare = F.l1_loss(out, target)
        refined = F.l1_loss(adapter.refine(latent, out), target)
        with torch.no_grad():
            mse = ((adapter.refine(latent, out) - target) / 2).square().mean((1, 2, 3))
            psnr = (-10 * torch.log10(mse.clamp(min=1e-8))).mean()
        return {"loss": bare + refined, "l1": bare, "l1_refined": refined, "psnr": psnr}

    fit(adapter, make_batch, loss_of, settings, folder)
    if base.fingerprint() != before:
        raise AssertionError("training changed the frozen base")
    adapter.eval().requires_grad_(False)
    return adapter
