"""Trains the compact encoder so that degradation and content separate linearly.

The losses ask for what the classification assumes (see docs/method.md): differences to the clean twin point along one
prototype per degradation, whatever the picture; a mixture's difference lies in the span of its parts' prototypes; the
prototypes are told apart from clean content in single images; and content stays recognisable, so that the encoder does
not collapse into a detector.
"""

from __future__ import annotations

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
from fdi_lib.models.encoder import COMPACT, Encoder, pooled
from fdi_lib.training.base import augmented_crop
from fdi_lib.training.loop import Batch, FitSettings, fit

_SIDES = (96, 128, 192, 192)  # px of the training crops: the whole view is reduced 1 to 2 times
_MIXED = 0.3  # share of samples with two degradations


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
    tiles: np.ndarray, kinds: tuple[str, ...], settings: FitSettings, batch: int, seed: int, folder: Path
) -> Encoder:
    """Train a compact encoder on clean tiles (uint8 N,T,T,3, T >= 192) and synthetic degradations of them."""
    torch.manual_seed(seed)
    model = _Prototypes(Encoder(COMPACT), len(kinds))

    def make_batch(step: int) -> Batch:
        with ThreadPoolExecutor(2) as pool:
            samples = list(pool.map(lambda i: _sample(tiles, kinds, seed, step * batch + i), range(batch)))
        clean, degraded, labels = (np.stack(column) for column in zip(*samples, strict=True))
        return {
            "clean": torch.from_numpy(clean),
            "degraded": torch.from_numpy(degraded),
            "labels": torch.from_numpy(labels),
        }

    fit(model, make_batch, lambda b: _losses(model, b), settings, folder)
    model.encoder.eval().requires_grad_(False)
    return model.encoder


def _sample(tiles: np.ndarray, kinds: tuple[str, ...], seed: int, index: int) -> tuple[np.ndarray, ...]:
    """One picture, clean and degraded: views 2,96,96,3 uint8 each, and the multi-hot label over ``kinds``."""
    rng = np.random.default_rng([seed, index])
    clean = augmented_crop(tiles, int(rng.choice(_SIDES)), rng, wide_tones=True)
    chosen = rng.choice(len(kinds), 2 if rng.random() < _MIXED else 1, replace=False)
    degraded = clean
    for name in in_order_of_damage(kinds[k] for k in chosen):
        degraded = degrade(name, degraded, rng)
    labels = np.zeros(len(kinds), np.float32)
    labels[chosen] = 1
    spec = replace(ViewSpec.from_encoder(COMPACT), crops=1)
    return make_views(quantised(clean), spec), make_views(quantised(degraded), spec), labels


def quantised(image: np.ndarray) -> np.ndarray:
    """Float [0, 1] -> uint8, rounded."""
    return np.rint(image * 255).astype(np.uint8)


def _losses(model: _Prototypes, batch: Batch) -> dict[str, torch.Tensor]:
    count = len(batch["labels"])
    views = torch.cat([batch["clean"], batch["degraded"]]).flatten(0, 1).permute(0, 3, 1, 2)
    tokens = model.encoder.tokens_of_view(views.float() / 127.5 - 1).float()
    q_2BD = pooled(tokens.unflatten(0, (2 * count, 2)).flatten(1, 2))
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
    detect = 0.5 * F.binary_cross_entropy_with_logits(degraded_BD @ p_KD.T * scale_K + model.detect_bias_K, labels_BK)
    detect = detect + 0.5 * F.binary_cross_entropy_with_logits(
        clean_BD @ p_KD.T * scale_K + model.detect_bias_K, torch.zeros_like(labels_BK)
    )
    outside_BD = difference_BD - (along_BK * labels_BK) @ p_KD
    span = (outside_BD.norm(dim=1, keepdim=True) / length_B1).square().mean()
    gram_KK = p_KD @ p_KD.T
    orthogonal = (gram_KK - torch.eye(len(gram_KK))).square().sum() / len(gram_KK)
    content_2BD = F.normalize(q_2BD - (q_2BD @ p_KD.T) @ p_KD, dim=1)
    alike_BB = content_2BD[count:] @ content_2BD[:count].T / 0.1
    content = F.cross_entropy(alike_BB, torch.arange(count))

    loss = contrast + 16 * detect + 0.5 * span + 0.2 * content + 0.1 * orthogonal
    found = ((along_BK / length_B1).argmax(1) == labels_BK.argmax(1))[labels_BK.sum(1) == 1].float().mean()
    return {"loss": loss, "contrast": contrast, "detect": detect, "span": span, "content": content, "found": found}
