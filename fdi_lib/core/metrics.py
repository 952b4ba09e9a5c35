"""Scores of restored images and of decisions: PSNR, SSIM, AUROC, F1 of sets, bootstrap by picture.

Pure functions of arrays. It does not know where images come from, and it does not quantise: callers score
what a reader of the written 8-bit file would see.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

PSNR_CAP_DB = 100.0  # identical images: a finite number, so that means over images stay finite and JSON stays valid


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all samples of two images, data range 1.

    Args:
        a: HW or HWC, any float dtype, [0, 1].
        b: the same shape and range.

    Returns:
        dB, at most ``PSNR_CAP_DB`` (identical images).
    """
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return min(PSNR_CAP_DB, -10 * np.log10(error)) if error > 0 else PSNR_CAP_DB


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity as Wang et al. (2004) define it: Gaussian window 11 px, sigma 1.5, data range 1.

    Colour images get the mean over the channels.

    Args:
        a: HW or HWC, any float dtype, [0, 1], at least 11 px a side.
        b: the same shape and range.
    """
    return float(
        structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=1.0,
            channel_axis=-1 if a.ndim == 3 else None,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive scores above a negative, ties counting half; neither may be empty."""
    n_positive, n_negative = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    u = float(ranks[:n_positive].sum()) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * n_negative)


def set_f1(truth: Collection[str], found: Collection[str]) -> float:
    """F1 of two sets of names: 1 when they are equal, 0 when they share nothing."""
    total = len(set(truth)) + len(set(found))
    return 2 * len(set(truth) & set(found)) / total if total else 1.0


def bootstrap_by_picture(
    values: Sequence[float], pictures: Sequence[str], seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Return the 95 % interval of the mean of ``values``, resampling whole pictures (tiles of one are not independent).

    Args:
        values: one number a tile.
        pictures: the picture each tile was cut from.
        seed: of the resampling.
        resamples: number of bootstrap samples.
    """
    names, index = np.unique(np.asarray(pictures), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, np.float64))
    counts = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
