"""Trains the compact base: a denoising diffusion model of clean photographs (v prediction, uniform time steps)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fdi_lib.models.base import Base
from fdi_lib.training.alone import fit
from fdi_lib.training.crops import augmented_crop
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.samples import Batch


def train_base(
    tiles: Sequence[np.ndarray] | np.ndarray,
    settings: FitSettings,
    batch: int,
    crop_px: int,
    seed: int,
    folder: Path,
    *,
    trackers: tuple[str, ...] = ("tensorboard",),
    workers: int = 0,
) -> Base:
    """Train a compact base from nothing on clean tiles (uint8 T,T,3 each) and return it with averaged weights.

    Args:
        tiles: to cut crops from.
        settings: length and rates.
        batch: crops a step.
        crop_px: their side.
        seed: of weights and samples.
        folder: receives log and checkpoint.
        trackers: where curves go, see :class:`fdi_lib.training.watch.Watch`.
        workers: processes that make batches, see :func:`fdi_lib.training.alone.fit`.
    """
    torch.manual_seed(seed)
    base = Base.compact()

    def loss_of(b: Batch) -> dict[str, torch.Tensor]:
        x0 = base.encode(b["clean"])
        abar = base.alphas[b["t"]].view(-1, 1, 1, 1)
        z = abar.sqrt() * x0 + (1 - abar).sqrt() * b["noise"]
        v = abar.sqrt() * b["noise"] - (1 - abar).sqrt() * x0
        null = z.new_zeros(len(z), 1, base.unet.config["cross_attention_dim"])
        out = base.unet(z, b["t"], encoder_hidden_states=null, return_dict=False)[0]
        return {"loss": F.mse_loss(out.float(), v)}

    make_batch = partial(_batch, tiles, batch, crop_px, seed)
    fit(base, make_batch, loss_of, settings, folder, trackers=trackers, workers=workers)
    base.eval().requires_grad_(False)
    return base


def _batch(tiles: Sequence[np.ndarray] | np.ndarray, batch: int, crop_px: int, seed: int, step: int) -> Batch:
    """Clean crops B3HW in [-1, 1], noise for their latents, time steps."""
    crops = [augmented_crop(tiles, crop_px, np.random.default_rng([seed, step * batch + i])) for i in range(batch)]
    rng = np.random.default_rng([seed + 1, step])
    clean = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) * 2 - 1
    noise = torch.from_numpy(rng.standard_normal((batch, 12, crop_px // 2, crop_px // 2), np.float32))
    return {"clean": clean, "noise": noise, "t": torch.from_numpy(rng.integers(0, 1000, batch))}
