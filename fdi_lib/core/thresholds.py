"""What separates clean, damaged and unknown images: numbers that calibration finds and decisions read.

Suffix: K degradations. Does NOT know how they are found (:mod:`fdi_lib.core.calibration`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """Where clean content ends.

    Args:
        clean_mean_K: mean matched-filter score of clean images.
        limit_K: score above which an image is not clean, see :func:`fdi_lib.core.calibration.detection_limits`.
        unknown_energy: |r|^2 above which an image without a detection is unknown.
    """

    clean_mean_K: np.ndarray
    limit_K: np.ndarray
    unknown_energy: float


@dataclass(frozen=True)
class Thresholds:
    """What calibration on held-out references found.

    Args:
        detail: limits of small images, which may be cuts of larger ones: one that is all sky looks like haze.
        whole: limits of whole pictures, which hardly ever are; the same where no whole reference is at hand.
        single_K: median amplitude of each degradation alone: the unit of composite weights.
        left_K: energy that no reference explains, above which an image said to be k is unknown instead (a high
            quantile of images known to be k).
        least_K: amplitude of k that images without it (clean, or with one other degradation) hardly reach: a further
            degradation of a mixture needs more, where there is no reference of the mixture.
        member: so joins a further degradation from this share of its ``single`` amplitude on.
        l1: sparsity of the code, in amplitude.
        margin: a further degradation joins where a reference of the mixture is likelier than one of the first alone, by
            more than this (log-likelihood).
    """

    detail: Limits
    whole: Limits
    single_K: np.ndarray
    left_K: np.ndarray
    least_K: np.ndarray
    member: float
    l1: float
    margin: float = 0.0
