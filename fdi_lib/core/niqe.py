"""NIQE, a score without a reference: how far an image's local statistics lie from those of clean photographs.

After Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal Processing
Letters 20 (2013). The model of clean photographs is given; it does not know where that is stored, nor where images
come from. Suffixes: N patches, F the 36 features of a patch, K values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import gammaln

from fdi_lib.core.metrics import halved

FEATURES = 36  # 18 at each of two scales
SHARPNESS = 0.75  # of a photograph's sharpest patch: below, a patch tells little about clean content (the paper's)
LEAST_PATCHES = 4  # an image's Gaussian from fewer is nothing but chance

_LUMA = np.array([0.299, 0.587, 0.114])
_WINDOW_SIGMA, _WINDOW_RADIUS = 7 / 6, 3  # the paper's 7 x 7 window, cut at three standard deviations
_FLAT = 1e-3  # mean square of the coefficients: where 1 pixel in 400 differs by a level; a textured patch has 0.3
_TINY = np.finfo(np.float64).tiny  # of products that are all 0, the shape is the least and the scale 0
_SHAPES = np.arange(0.2, 10.0, 0.001)
# Mean absolute value squared over mean square, of a generalised Gaussian of each shape. It rises with the shape.
_RATIOS = np.exp(2 * gammaln(2 / _SHAPES) - gammaln(1 / _SHAPES) - gammaln(3 / _SHAPES))


@dataclass(frozen=True)
class Pristine:
    """The Gaussian of clean photographs' sharp patches.

    Args:
        mean_F: float64 mean of their features.
        covariance_FF: float64 covariance, of full rank.
        patch_px: side of the patches, even.
    """

    mean_F: np.ndarray
    covariance_FF: np.ndarray
    patch_px: int


def niqe(image: np.ndarray, pristine: Pristine) -> float | None:
    """Distance of an image's Gaussian of patch features to that of clean photographs; lower is better.

    Only images of about one size are comparable: the fewer patches, the larger the distance of equally clean ones.

    Args:
        image: HW or HW3 RGB, any float dtype, [0, 1].
        pristine: the model of clean photographs.

    Returns:
        A number from 0 on, or None of an image with fewer than ``LEAST_PATCHES`` whole patches that aren't flat.
    """
    features_NF, _ = patch_features(image, pristine.patch_px)
    if len(features_NF) < LEAST_PATCHES:
        return None
    difference_F = features_NF.mean(0) - pristine.mean_F
    pooled_FF = (np.cov(features_NF, rowvar=False) + pristine.covariance_FF) / 2
    return float(np.sqrt(difference_F @ np.linalg.solve(pooled_FF, difference_F)))


def fit(features: Sequence[np.ndarray], patch_px: int) -> Pristine:
    """Fit the model of clean photographs.

    Args:
        features: of each photograph's sharp patches, float64 N,F: :func:`sharp_features`.
        patch_px: the side they were computed with.

    Raises:
        ValueError: too few patches for a covariance of full rank.
    """
    features_NF = np.concatenate([np.empty((0, FEATURES)), *features])
    if len(features_NF) <= FEATURES or np.linalg.matrix_rank(np.cov(features_NF, rowvar=False)) < FEATURES:
        raise ValueError(f"{len(features_NF)} sharp patches do not determine a covariance of {FEATURES} features")
    return Pristine(features_NF.mean(0), np.cov(features_NF, rowvar=False), patch_px)


def sharp_features(image: np.ndarray, patch_px: int) -> np.ndarray:
    """Features, float64 N,F, of those patches that are sharper than ``SHARPNESS`` times the image's sharpest.

    Patches overlap by half, so that few photographs give enough of them.

    Args:
        image: HW or HW3 RGB, any float dtype, [0, 1].
        patch_px: side of the patches, even.
    """
    starts = (0, patch_px // 2)
    parts = [patch_features(image[top:, left:], patch_px) for top in starts for left in starts]
    features_NF, sharpness_N = (np.concatenate(part) for part in zip(*parts, strict=True))
    return features_NF[sharpness_N > SHARPNESS * sharpness_N.max(initial=0.0)]


def patch_features(image: np.ndarray, patch_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and sharpness of an image's whole, non-overlapping patches, but for flat ones.

    Args:
        image: HW or HW3 RGB, any float dtype, [0, 1].
        patch_px: side of the patches, even.

    Returns:
        float64 N,F and float64 N: the mean local standard deviation, in levels of 255.
    """
    # Whole levels: the luma of a grey picture has these, and in skies it shows whether there are any between.
    luma = np.rint(255 * (image @ _LUMA if image.ndim == 3 else np.asarray(image, np.float64)))
    rows, columns = (side // patch_px for side in luma.shape)
    if not rows * columns:
        return np.empty((0, FEATURES)), np.empty(0)
    luma = luma[: rows * patch_px, : columns * patch_px]
    fine, deviation = _normalised(luma)
    coarse, _ = _normalised(halved(luma))
    sides = (patch_px, patch_px // 2)
    scales = [_cut(values, side) for values, side in zip((fine, coarse), sides, strict=True)]
    told_N = np.min([np.mean(patches**2, axis=(1, 2)) for patches in scales], axis=0) > _FLAT
    features_NF = np.concatenate([_statistics(patches[told_N]) for patches in scales], axis=1)
    return features_NF, _cut(deviation, patch_px).mean((1, 2))[told_N]


def _normalised(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean-subtracted, contrast-normalised coefficients, and the local standard deviation; HW as ``luma``."""

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(values, _WINDOW_SIGMA, radius=_WINDOW_RADIUS, mode="nearest"))

    local = mean(luma)
    deviation = np.sqrt(np.maximum(mean(luma**2) - local**2, 0.0))
    return (luma - local) / (deviation + 1.0), deviation


def _cut(values: np.ndarray, side: int) -> np.ndarray:
    """HW, whole multiples of ``side``, as N,side,side."""
    rows, columns = (length // side for length in values.shape)
    return values.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _statistics(patches: np.ndarray) -> np.ndarray:
    """The 18 features of one scale: N,18 of coefficients N,side,side.

    Shape and scale of the coefficients; shape, mean, left and right scale of the products of neighbours to the right,
    below, and along both diagonals.
    """
    shape_N, _, left_N, right_N = fitted(patches)
    columns = [shape_N, (left_N + right_N) / 2]
    for one, other in (
        (patches[:, :, :-1], patches[:, :, 1:]),
        (patches[:, :-1], patches[:, 1:]),
        (patches[:, :-1, :-1], patches[:, 1:, 1:]),
        (patches[:, :-1, 1:], patches[:, 1:, :-1]),
    ):
        columns += fitted(one * other)
    return np.stack(columns, axis=1)


def fitted(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit an asymmetric generalised Gaussian to each patch by its moments (Lasmar, Stitou and Berthoumieu, 2009).

    Args:
        patches: float64 N,height,width.

    Returns:
        Shape (2 is a Gaussian, 1 a Laplacian; from 0.2 to 10), mean, left and right scale, each float64 N.
    """
    values_NK = patches.reshape(len(patches), patches.shape[1] * patches.shape[2])
    squares_NK, below_NK = values_NK**2, values_NK < 0
    below_N = below_NK.sum(1)
    left_N = np.sqrt((squares_NK * below_NK).sum(1) / np.maximum(below_N, 1))
    right_N = np.sqrt((squares_NK * ~below_NK).sum(1) / np.maximum(values_NK.shape[1] - below_N, 1))
    # The correction for asymmetry is the same for a ratio and its inverse: the one from 0 to 1 is always finite.
    ratio_N = np.minimum(left_N, right_N) / np.maximum(np.maximum(left_N, right_N), _TINY)
    moments_N = np.abs(values_NK).mean(1) ** 2 / np.maximum(squares_NK.mean(1), _TINY)
    moments_N *= (ratio_N**3 + 1) * (ratio_N + 1) / (ratio_N**2 + 1) ** 2
    shape_N = np.interp(moments_N, _RATIOS, _SHAPES)
    log1, log2, log3 = (gammaln(k / shape_N) for k in (1, 2, 3))
    unit_N = np.exp((log1 - log3) / 2)
    left_N, right_N = left_N * unit_N, right_N * unit_N
    return shape_N, (right_N - left_N) * np.exp(log2 - log1), left_N, right_N
