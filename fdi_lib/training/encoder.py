"""Trains the compact encoder so that degradation and content separate linearly.

The losses ask for what the classification assumes (see docs/method.md): differences to the clean twin point along one
prototype per degradation, whatever the picture; a mixture's difference lies in the span of its parts' prototypes; the
prototypes are told apart from clean content in single images; and content stays recognisable, so that the encoder does
not collapse into a detector.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fdi_lib.core.degrade import degrade
from fdi_lib.core.order import in_order_of_damage
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.errors import ManifestError
from fdi_lib.models.encoder import COMPACT, Encoder
from fdi_lib.training.alone import fit
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.samples import Batch
from fdi_lib.training.scenes import Scenes, clean_scene

_PATCH_PX: int = COMPACT["vision"]["patch_size"]
_MIXED = 0.25  # share of samples with two degradations
_RESAMPLED = (0.6, 0.3)  # share of whole views, and of crops, that are made of patches drawn anew
# Views that a sample has, of an image's whole view and four crops: an image makes two samples. Drawing and damaging a
# picture takes longer than learning from it, so each is used more than once (batch augmentation: Hoffer et al., 2020).
_LOOKS = ((0, 1, 4), (0, 2, 3))


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
    versions: int = 1,
    start: Encoder | None = None,
    trackers: tuple[str, ...] = ("tensorboard",),
    workers: int = 0,
) -> Encoder:
    """Train a compact encoder on clean pictures and synthetic degradations of them.

    Args:
        scenes: by kind of picture, clean tiles (uint8 T,T,3), see :func:`fdi_lib.training.pictures.scene_tiles`.
        kinds: degradations to tell apart.
        settings: length and rates.
        batch: samples a step, each clean and degraded: ``2 * versions`` of each picture.
        seed: key of every sample.
        folder: receives log and checkpoint.
        favoured: degradations that are drawn twice as often.
        versions: of each picture, with other damage each.
        start: weights to go on from; None starts from nothing.
        trackers: where curves go, see :class:`fdi_lib.training.watch.Watch`.
        workers: processes that make batches, see :func:`fdi_lib.training.alone.fit`.

    Raises:
        ManifestError: the batch is no multiple of a picture's samples.
    """
    each = len(_LOOKS) * versions
    if batch % each:
        raise ManifestError(
            "not a multiple of a picture's samples", key="batch", value=str(batch), remedy=f"use a multiple of {each}"
        )
    torch.manual_seed(seed)
    encoder = Encoder(COMPACT)
    if start is not None:
        rest = {key: value for key, value in start.state_dict().items() if not key.startswith("tones.")}
        encoder.load_state_dict(rest)  # what looks at tones is trained by itself
    if not torch.cuda.is_available():
        # The backward pass of fused attention is slow on CPUs: a step took 1.7 times as long with it.
        encoder.vision_model.set_attn_implementation("eager")
    model = _Prototypes(encoder.train().requires_grad_(True), len(kinds))
    make_batch = partial(_batch, scenes, kinds, odds_of(kinds, favoured), versions, seed, batch // each)
    fit(model, make_batch, lambda b: _losses(model, b), settings, folder, trackers=trackers, workers=workers)
    model.encoder.eval().requires_grad_(False)
    return model.encoder


def _batch(
    scenes: Scenes, kinds: tuple[str, ...], odds_K: np.ndarray, versions: int, seed: int, pictures: int, step: int
) -> Batch:
    """All samples of so many pictures: views B,V,96,96,3 uint8, labels B,K, and which picture each shows."""
    with ThreadPoolExecutor(2) as pool:
        first = step * pictures
        found = list(pool.map(partial(_samples, scenes, kinds, odds_K, versions, seed), range(first, first + pictures)))
    clean, degraded, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    return {
        "clean": torch.from_numpy(clean),
        "degraded": torch.from_numpy(degraded),
        "labels": torch.from_numpy(labels),
        "picture": torch.arange(pictures).repeat_interleave(len(labels) // pictures),
    }


def _samples(
    scenes: Scenes, kinds: tuple[str, ...], odds_K: np.ndarray, versions: int, seed: int, index: int
) -> tuple[np.ndarray, ...]:
    """One picture, clean and degraded in several versions, each looked at twice.

    Returns:
        Views of clean and of degraded samples, uint8 N,V,96,96,3 each, and multi-hot labels over ``kinds``, N,K.
    """
    rng = np.random.default_rng([seed, index])
    spec = ViewSpec.from_encoder(COMPACT)
    picture = clean_scene(scenes, rng)
    clean = make_views(quantised(picture), spec, as_is=True)
    pairs, labels_NK = [], np.zeros((versions * len(_LOOKS), len(kinds)), np.float32)
    for version in range(versions):
        degraded, present_K = damaged(picture, kinds, odds_K, rng)
        both = np.stack([clean, make_views(quantised(degraded), spec, as_is=True)])
        pairs += [_look(both[:, list(views)], rng) for views in _LOOKS]
        labels_NK[version * len(_LOOKS) : (version + 1) * len(_LOOKS)] = present_K
    sides = np.stack(pairs, axis=1)
    return sides[0], sides[1], labels_NK


def _look(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Views of both sides (2,V,S,S,3), each view flipped and turned as chance has it, or its patches drawn anew."""
    out = np.empty_like(views)
    for v in range(views.shape[1]):
        seen = np.rot90(views[:, v], int(rng.integers(4)), axes=(1, 2))
        seen = seen[:, :, ::-1] if rng.random() < 0.5 else seen
        share = _RESAMPLED[min(v, 1)]
        out[:, v] = resample_patches(np.ascontiguousarray(seen), _PATCH_PX, rng) if rng.random() < share else seen
    return out


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


def odds_of(kinds: tuple[str, ...], favoured: Collection[str]) -> np.ndarray:
    """How often each degradation is drawn, float64 K that add up to 1: favoured ones twice as often as others."""
    odds_K = np.array([2.0 if name in favoured else 1.0 for name in kinds])
    return odds_K / odds_K.sum()


def damaged(
    picture: np.ndarray, kinds: tuple[str, ...], odds_K: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one degradation of a picture (float HW3 in [0, 1]), or two; the result, and which it has, bool K."""
    chosen = rng.choice(len(kinds), 2 if rng.random() < _MIXED else 1, replace=False, p=odds_K)
    for name in in_order_of_damage(kinds[k] for k in chosen):
        picture = degrade(name, picture, rng)
    return picture, np.isin(np.arange(len(kinds)), chosen)


def quantised(image: np.ndarray) -> np.ndarray:
    """Float [0, 1] -> uint8, rounded."""
    return np.rint(image * 255).astype(np.uint8)


def _losses(model: _Prototypes, batch: Batch) -> dict[str, torch.Tensor]:
    count = len(batch["labels"])
    views = torch.cat([batch["clean"], batch["degraded"]]).permute(0, 1, 4, 2, 3)
    tokens = model.encoder.tokens_of_view(views.flatten(0, 1).float() / 127.5 - 1).float()
    tokens = tokens.unflatten(0, views.shape[:2])
    q_2BD = torch.cat([tokens[:, 0].mean(1), tokens[:, 1:].mean((1, 2))], dim=1)
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
    same_BB = batch["picture"][:, None] == batch["picture"]  # its other samples are no counterexamples
    same_BB = same_BB & ~torch.eye(count, dtype=torch.bool, device=same_BB.device)
    content = F.cross_entropy(alike_BB.masked_fill(same_BB, -1e4), torch.arange(count, device=alike_BB.device))

    loss = contrast + 3 * detect + 0.5 * span + 0.2 * content + 0.1 * orthogonal
    found = ((along_BK / length_B1).argmax(1) == labels_BK.argmax(1))[labels_BK.sum(1) == 1].float().mean()
    return {"loss": loss, "contrast": contrast, "detect": detect, "span": span, "content": content, "found": found}
