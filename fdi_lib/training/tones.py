"""Trains what the compact encoder sees of tones: a network on quantiles, by what was done to pictures.

It learns to name the damage, all kinds at once, clean pictures among them. Quantiles are few, so all of them are made
first, and then learnt from many times.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from fdi_lib.core.monochrome import grey
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.models.tones import Tones, quantiles
from fdi_lib.training.alone import batches
from fdi_lib.training.encoder import damaged, odds_of, quantised
from fdi_lib.training.rows import fit_rows
from fdi_lib.training.samples import Batch
from fdi_lib.training.scenes import SIDES, Scenes, clean_scene, pale

_SCENES, _TOGETHER, _VERSIONS = 4000, 16, 6  # pictures, those made in one go, and how often each is damaged
_GREY = 0.2  # share of pictures that are seen in grey
_PALE = 0.11  # share of made pale skies: a clean one has the tones of haze (docs/decisions/0020)
_EPOCHS, _BATCH, _RATE, _DECAY = 60, 512, 1.5e-3, 0.01


def train_tones(
    width: int,
    scenes: Scenes,
    kinds: tuple[str, ...],
    size_px: int,
    seed: int,
    *,
    favoured: Collection[str] = (),
    pictures: int = _SCENES,
    workers: int = 0,
) -> tuple[Tones, float]:
    """Train on the CPU.

    Args:
        width: see :class:`Tones`.
        scenes: by kind of picture, clean tiles (uint8 T,T,3), see :func:`fdi_lib.training.pictures.scene_tiles`.
        kinds: degradations to tell apart.
        size_px: side of the views.
        seed: key of every sample.
        favoured: degradations that are drawn twice as often.
        pictures: to learn on, each clean and damaged six times.
        workers: processes that make samples; 0: a thread does it.

    Returns:
        The network, frozen, and the last epoch's mean loss.
    """
    make = partial(_made, scenes, kinds, odds_of(kinds, favoured), size_px, seed)
    made = list(batches(make, 0, -(-pictures // _TOGETHER), workers))
    clean_SF, damaged_NF, labels_NK = (torch.cat([batch[key] for batch in made]) for key in made[0])
    torch.manual_seed(seed)
    tones = Tones(width, len(kinds))

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        # As many clean pictures as damaged ones: those of the very same scenes, so that content says nothing.
        clean = tones.logits(clean_SF[rows // _VERSIONS])
        named = F.binary_cross_entropy_with_logits(tones.logits(damaged_NF[rows]), labels_NK[rows], reduction="none")
        return (named + F.softplus(clean)).sum(1).mean()

    loss = fit_rows(
        tones.parameters(), len(damaged_NF), loss_of, epochs=_EPOCHS, batch=_BATCH, rate=_RATE, decay=_DECAY
    )
    return tones.eval().requires_grad_(False), loss


def _made(scenes: Scenes, kinds: tuple[str, ...], odds_K: np.ndarray, size_px: int, seed: int, number: int) -> Batch:
    """Quantiles of so many pictures, clean S,F, and of what became of them, S x versions,F, with labels N,K."""
    clean, views, labels = [], [], []
    for index in range(number * _TOGETHER, (number + 1) * _TOGETHER):
        rng = np.random.default_rng([seed, index])
        picture = pale(int(rng.choice(SIDES)), rng) if rng.random() < _PALE else clean_scene(scenes, rng)
        in_grey = rng.random() < _GREY
        look = partial(_view, size_px, in_grey)
        clean.append(look(picture))
        for _ in range(_VERSIONS):
            image, present_K = damaged(picture, kinds, odds_K, rng)
            views.append(look(image))
            labels.append(present_K)
    return {
        "clean": _quantiles(clean),
        "damaged": _quantiles(views),
        "labels": torch.from_numpy(np.stack(labels)).float(),
    }


def _view(size_px: int, in_grey: bool, image: np.ndarray) -> np.ndarray:
    pixels = quantised(image)
    return make_views(grey(pixels) if in_grey else pixels, ViewSpec(size_px, 1), as_is=True)[0]


def _quantiles(views: Sequence[np.ndarray]) -> torch.Tensor:
    return quantiles(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255)
