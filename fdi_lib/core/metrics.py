"""Scores of restored images and of decisions: PSNR, SSIM, MS-SSIM, AUROC, F1 of sets, bootstrap by picture.

Pure functions of arrays. It does not know where images come from, and it does not quantise: callers score
what a reader of the written 8-bit file would see.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
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


# Weights of the scales, finest first, as Wang et al. (2003) measured them.
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW_PX = 11


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity over five scales (Wang, Simoncelli and Bovik, 2003), data range 1.

    Contrast and structure at every scale, luminance at the coarsest, each scale the mean of 2 x 2 pixels of the one
    before; window as in :func:`ssim`. A scale counts that holds the 11 px window: images under 176 px have fewer, and
    the weights of those are scaled to sum to 1. A negative term counts as 0. Colour images get the mean over
    the channels.

    Args:
        a: HW or HWC, any float dtype, [0, 1], at least 11 px a side.
        b: the same shape and range.

    Raises:
        ValueError: a side is shorter than the window.
    """
    if min(a.shape[:2]) < _WINDOW_PX:
        raise ValueError(f"sides of {a.shape[:2]}: the window takes {_WINDOW_PX} px")
    if a.ndim == 3:
        return float(np.mean([ms_ssim(a[..., c], b[..., c]) for c in range(a.shape[2])]))
    x, y = a.astype(np.float64), b.astype(np.float64)
    terms: list[float] = []
    while True:
        luminance, structure = _ssim_terms(x, y)
        half = min(x.shape) // 2
        if len(terms) + 1 == len(_SCALES) or half < _WINDOW_PX:
            terms.append(float((luminance * structure).mean()))
            break
        terms.append(float(structure.mean()))
        x, y = halved(x), halved(y)
    weights = np.array(_SCALES[: len(terms)]) / sum(_SCALES[: len(terms)])
    return float(np.prod(np.maximum(terms, 0.0) ** weights))


def _ssim_terms(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance term, and contrast with structure, where the whole window lies on the image."""
    edge, c1, c2 = _WINDOW_PX // 2, 0.01**2, 0.03**2

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(values, 1.5, radius=edge)[edge:-edge, edge:-edge])

    mx, my = mean(x), mean(y)
    vx, vy, covariance = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1), (2 * covariance + c2) / (vx + vy + c2)


def halved(x: np.ndarray) -> np.ndarray:
    """Mean of every 2 x 2 pixels, HW of any float dtype; an odd last row or column is left out."""
    height, width = (side // 2 for side in x.shape)
    return np.asarray(x[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3)))


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
