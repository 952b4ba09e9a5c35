"""Builds the reference bank: FDI of every degradation, clean geometry, thresholds on held-out references."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fdi_lib.core.degrade import degrade
from fdi_lib.core.order import in_order_of_damage
from fdi_lib.core.similarity import (
    CleanReferences,
    Geometry,
    Thresholds,
    decide,
    detection_limits,
    inverse_root,
    shrunk_covariance,
    statistics,
    weighted_mean,
)
from fdi_lib.core.views import make_views
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoder import Encoder, pooled
from fdi_lib.training.encoder import quantised

# Share of the spread of paired differences in the whitening: without it a weak direction (scratch) is taken for the
# spread of a strong one. 0.3 was the best of 0, 0.3, 1, 3 and 10 on calibration pictures.
_WITHIN = 0.3
_L1 = 1.0  # sparsity of the code, in whitened amplitude (a clean image's score has standard deviation 1)
_MEMBER_CHOICES = np.linspace(0.1, 0.9, 17)


def features(encoder: Encoder, images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8 HW3) -> tokens float32 N,T,D and pooled features float64 N,2D."""
    rows = [encoder.tokens(make_views(image, encoder.view_spec)[None]) for image in images]
    tokens = np.concatenate([r.numpy() for r in rows])
    return tokens, np.concatenate([pooled(r).numpy() for r in rows]).astype(np.float64)


def degraded(names: tuple[str, ...], image: np.ndarray, seed: list[int]) -> np.ndarray:
    """Apply degradations in the order in which they happen; uint8 HW3 in and out, quantised after the last."""
    rng = np.random.default_rng(seed)
    out = image.astype(np.float32) / 255
    for name in in_order_of_damage(names):
        out = degrade(name, out, rng)
    return quantised(out)


def build_bank(
    encoder: Encoder,
    encoder_sha256: str,
    names: tuple[str, ...],
    content: list[np.ndarray],
    reference: list[np.ndarray],
    held_out: list[np.ndarray],
    weights: np.ndarray,
    *,
    clean_false_positive_rate: float,
    seed: int,
) -> ReferenceBank:
    """Build and calibrate a bank from clean pictures and synthetic degradations of them.

    Args:
        encoder: whose features.
        encoder_sha256: hash of its weights file.
        names: degradations of the bank.
        content: clean images (uint8 HW3) that describe what content looks like: mean and covariance.
        reference: clean images whose degraded twins give the FDI.
        held_out: clean images, of other pictures than ``reference``, for the thresholds.
        weights: what each of them counts.
        clean_false_positive_rate: rate of the stored thresholds; others are read later from the stored scores.
        seed: of the degradations.
    """
    _, q_content = features(encoder, content)
    tokens_clean, q_reference = features(encoder, reference)
    fdi_tokens, fdi, spread, within = [], [], [], []
    for k, name in enumerate(names):
        tokens, q = features(encoder, [degraded((name,), image, [seed, k, i]) for i, image in enumerate(reference)])
        fdi_tokens.append((tokens - tokens_clean).mean(0))
        differences = q - q_reference
        fdi.append(differences.mean(0))
        within.append(shrunk_covariance(differences))
        spread.append((differences.mean(0) ** 2).sum() / (differences**2).sum(1).mean())
    covariance = shrunk_covariance(q_content) + _WITHIN * np.mean(within, axis=0)
    geometry = Geometry(names, q_content.mean(0), inverse_root(covariance), np.stack(fdi))
    thresholds, clean = calibrate(encoder, geometry, held_out, weights, clean_false_positive_rate, seed)
    return ReferenceBank(
        geometry,
        thresholds,
        np.stack(fdi_tokens).astype(np.float32),
        np.array(spread),
        np.full(len(names), float(len(reference))),
        clean,
        encoder_sha256,
    )


def calibrate(
    encoder: Encoder, geometry: Geometry, held_out: list[np.ndarray], weights: np.ndarray, rate: float, seed: int
) -> tuple[Thresholds, CleanReferences]:
    """Thresholds from held-out clean images, single degradations and two-fold mixtures of them."""
    names, unit_KD = geometry.names, geometry.unit_KD
    r_clean = geometry.residual(features(encoder, held_out)[1])
    sets: list[tuple[str, ...]] = [(n,) for n in names] * 4 + list(itertools.combinations(names, 2))
    q, truth = [], []
    for i, image in enumerate(held_out):
        chosen = sets[i % len(sets)], sets[(i * 7 + 3) % len(sets)]
        for j, kinds in enumerate(chosen):
            q.append(features(encoder, [degraded(kinds, image, [seed, 99, j, i])])[1][0])
            truth.append(frozenset(kinds))
    r = geometry.residual(np.stack(q))
    alone = [[i for i, kinds in enumerate(truth) if kinds == {name}] for name in names]

    score_clean, score = r_clean @ unit_KD.T, r @ unit_KD.T
    mildest = np.array([np.quantile(score[rows, k], 0.05) for k, rows in enumerate(alone)])
    clean = CleanReferences(score_clean, (r_clean**2).sum(1), weights, mildest)
    limit, unknown_energy = detection_limits(clean, rate)
    ones = np.ones(len(names))
    start = Thresholds(weighted_mean(score_clean, weights), limit, unknown_energy, ones, ones, 0.5, _L1)
    found = statistics(r, geometry, start)
    single = np.array([max(np.median(found["amplitude"][rows, k]), 1e-3) for k, rows in enumerate(alone)])
    left_N = found["residual"] * found["energy"]
    left = np.array([np.quantile([left_N[i] for i, kinds in enumerate(truth) if n in kinds], 0.99) for n in names])
    best, best_score = start, -1.0
    for member in _MEMBER_CHOICES:
        t = replace(start, single_K=single, left_K=left, member=float(member))
        decisions = decide(np.stack(q), geometry, t, max_adapters=3, mode="composite")
        singles = [{n for n, _ in d.adapters} == k for d, k in zip(decisions, truth, strict=True) if len(k) == 1]
        mixed = [{n for n, _ in d.adapters} == k for d, k in zip(decisions, truth, strict=True) if len(k) == 2]
        score = float(np.mean(singles)) + 0.5 * float(np.mean(mixed)) if mixed else float(np.mean(singles))
        if score > best_score:
            best, best_score = t, score
    return best, clean
