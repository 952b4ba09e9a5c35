"""Trains the compact encoder so that degradation and content separate linearly.

The losses ask for what the classification assumes (see docs/method.md): differences to the clean twin point along one
prototype per degradation, whatever the picture; a mixture's difference lies in the span of its parts' prototypes; the
prototypes are told apart from clean content in single images; and content stays recognisable, so that the encoder does
not collapse into a detector.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fdi_lib.core.degrade import degrade
from fdi_lib.core.order import in_order_of_damage
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.models.encoder import COMPACT, Encoder
from fdi_lib.training.alone import fit
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.samples import Batch
from fdi_lib.training.scenes import Scenes, clean_scene

_PATCH_PX: int = COMPACT["vision"]["patch_size"]
_MIXED = 0.25  # share of samples with two degradations
_RESAMPLED = (0.6, 0.3)  # share of samples whose whole view, and whose crop, are made of patches drawn anew


class _Prototypes(nn.Module):
    """The encoder with what only its training needs: a direction per degradation (K), a detector's calibration."""

    def __init__(self, encoder: Encoder, kinds: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.directions_KD = nn.Parameter(torch.randn(kinds, 2 * encoder.token_shape[1]))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.detect_scale_K = nn.Parameter(torch.ones(kinds))
        self.detect_bias_K = nn.Parameter(torch.full((kinds,), -2.0))


def train_encoder(
    scenes: Scenes,
    kinds: tuple[str, ...],
    settings: FitSettings,
    batch: int,
    seed: int,
    folder: Path,
    *,
    favoured: Collection[str] = (),
    start: Encoder | None = None,
    trackers: tuple[str, ...] = ("tensorboard",),
) -> Encoder:
    """Train a compact encoder on clean pictures and synthetic degradations of them.

    Args:
        scenes: by kind of picture, clean tiles (uint8 T,T,3), see :func:`fdi_lib.training.pictures.scene_tiles`.
        kinds: degradations to tell apart.
        settings: length and rates.
        batch: pictures a step; each is seen clean and degraded.
        seed: key of every sample.
        folder: receives log and checkpoint.
        favoured: degradations that are drawn twice as often.
        start: weights to go on from; None starts from nothing.
        trackers: where curves go, see :class:`fdi_lib.training.watch.Watch`.
    """
    torch.manual_seed(seed)
    encoder = Encoder(COMPACT)
    if start is not None:
        encoder.load_state_dict(start.state_dict())
    # The backward pass of fused attention is slow on CPUs: a step took 1.7 times as long with it.
    encoder.vision_model.set_attn_implementation("eager")
    model = _Prototypes(encoder.train().requires_grad_(True), len(kinds))
    odds_K = np.array([2.0 if name in favoured else 1.0 for name in kinds])

    def make_batch(step: int) -> Batch:
        with ThreadPoolExecutor(2) as pool:
            samples = list(
                pool.map(lambda i: _sample(scenes, kinds, odds_K / odds_K.sum(), seed, step * batch + i), range(batch))
            )
        clean, degraded, labels = (np.stack(column) for column in zip(*samples, strict=True))
        return {
            "clean": torch.from_numpy(clean),
            "degraded": torch.from_numpy(degraded),
            "labels": torch.from_numpy(labels),
        }

    fit(model, make_batch, lambda b: _losses(model, b), settings, folder, trackers=trackers)
    model.encoder.eval().requires_grad_(False)
    return model.encoder


def _sample(
    scenes: Scenes, kinds: tuple[str, ...], odds_K: np.ndarray, seed: int, index: int
) -> tuple[np.ndarray, ...]:
    """One picture, clean and degraded: views 2,96,96,3 uint8 each, and the multi-hot label over ``kinds``."""
    rng = np.random.default_rng([seed, index])
    clean = clean_scene(scenes, rng)
    chosen = rng.choice(len(kinds), 2 if rng.random() < _MIXED else 1, replace=False, p=odds_K)
    degraded = clean
    for name in in_order_of_damage(kinds[k] for k in chosen):
        degraded = degrade(name, degraded, rng)
    labels = np.zeros(len(kinds), np.float32)
    labels[chosen] = 1
    spec = replace(ViewSpec.from_encoder(COMPACT), crops=1)
    pair = np.stack([make_views(quantised(image), spec) for image in (clean, degraded)])
    for view, share in enumerate(_RESAMPLED):
        if rng.random() < share:
            pair[:, view] = resample_patches(pair[:, view], _PATCH_PX, rng)
    return pair[0], pair[1], labels


def resample_patches(views_NSSC: np.ndarray, patch_px: int, rng: np.random.Generator) -> np.ndarray:
    """Fill the grid of patches with patches drawn from it, some twice, some not at all; the same ones in all views.

    What is left of a picture are its tones, contrasts and textures, without the scene: an encoder that may look at
    scenes knows those of its few pictures by heart, and recognises haze on them alone.
    """
    side = views_NSSC.shape[1] // patch_px
    patches = views_NSSC.reshape(len(views_NSSC), side, patch_px, side, patch_px, 3).swapaxes(2, 3)
    flat = patches.reshape(len(views_NSSC), side * side, patch_px, patch_px, 3)
    drawn = flat[:, rng.integers(0, side * side, side * side)].reshape(patches.shape)
    return np.ascontiguousarray(drawn.swapaxes(2, 3).reshape(views_NSSC.shape))


def quantised(image: np.ndarray) -> np.ndarray:
    """Float [0, 1] -> uint8, rounded."""
    return np.rint(image * 255).astype(np.uint8)


def _losses(model: _Prototypes, batch: Batch) -> dict[str, torch.Tensor]:
    count = len(batch["labels"])
    views = torch.cat([batch["clean"], batch["degraded"]]).flatten(0, 1).permute(0, 3, 1, 2)
    tokens = model.encoder.tokens_of_view(views.float() / 127.5 - 1).float()
    q_2BD = model.encoder.pooled(tokens.unflatten(0, (2 * count, -1)).flatten(1, 2))
    clean_BD, degraded_BD = q_2BD[:count], q_2BD[count:]
    labels_BK = batch["labels"]
    p_KD = F.normalize(model.directions_KD, dim=1)
    difference_BD = degraded_BD - clean_BD
    length_B1 = difference_BD.norm(dim=1, keepdim=True) + 1e-3
    along_BK = difference_BD @ p_KD.T

    contrast = F.cross_entropy(
        along_BK / length_B1 * model.logit_scale.exp(), labels_BK / labels_BK.sum(1, keepdim=True)
    )
    scale_K = F.softplus(model.detect_scale_K)
    wrong_BK = F.binary_cross_entropy_with_logits(
        degraded_BD @ p_KD.T * scale_K + model.detect_bias_K, labels_BK, reduction="none"
    )
    alarm_BK = F.softplus(clean_BD @ p_KD.T * scale_K + model.detect_bias_K)
    detect = 0.5 * (wrong_BK + alarm_BK).sum(1).mean()  # a sum: further kinds don't dilute the ones there are
    outside_BD = difference_BD - (along_BK * labels_BK) @ p_KD
    span = (outside_BD.norm(dim=1, keepdim=True) / length_B1).square().mean()
    gram_KK = p_KD @ p_KD.T
    orthogonal = (gram_KK - torch.eye(len(gram_KK), device=gram_KK.device)).square().sum() / len(gram_KK)
    content_2BD = F.normalize(q_2BD - (q_2BD @ p_KD.T) @ p_KD, dim=1)
    alike_BB = content_2BD[count:] @ content_2BD[:count].T / 0.1
    content = F.cross_entropy(alike_BB, torch.arange(count, device=alike_BB.device))

    loss = contrast + 3 * detect + 0.5 * span + 0.2 * content + 0.1 * orthogonal
    found = ((along_BK / length_B1).argmax(1) == labels_BK.argmax(1))[labels_BK.sum(1) == 1].float().mean()
    return {"loss": loss, "contrast": contrast, "detect": detect, "span": span, "content": content, "found": found}
