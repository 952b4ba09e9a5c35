"""Damage by the printing press. Not one of the recipes: a degradation that no shipped model has ever seen.

It is there to try training a new degradation from pairs on (``python -m jobs.benches.own``).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

_ANGLES = np.deg2rad((15.0, 75.0, 45.0))  # of the screens of cyan, magenta and yellow, seen in R, G and B


def halftone(image: np.ndarray, rng: np.random.Generator, period_px: float, share: float, blur_px: float) -> np.ndarray:
    """Print through amplitude-modulated screens, one per channel, and scan.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness (phases of the screens).
        period_px: distance of the dots, 3 to 8.
        share: how much of the tone the dots carry; the rest is continuous, in [0, 1].
        blur_px: standard deviation of dot gain and scanner together, 0.5 to 1.

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Clustered-dot ordered dither with a cosine spot function: Ulichney, "Digital Halftoning", MIT Press, 1987.
    """
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    printed = np.empty_like(image)
    for channel, angle in enumerate(_ANGLES):
        phase = rng.uniform(0, 2 * np.pi, 2)
        u = 2 * np.pi / period_px * (x * np.cos(angle) + y * np.sin(angle)) + phase[0]
        v = 2 * np.pi / period_px * (y * np.cos(angle) - x * np.sin(angle)) + phase[1]
        threshold = 0.5 + 0.25 * (np.cos(u) + np.cos(v))
        printed[..., channel] = np.clip(0.5 + 8 * (image[..., channel] - threshold), 0, 1)
    printed = gaussian_filter(printed, (blur_px, blur_px, 0))
    return np.clip((1 - share) * image + share * printed, 0, 1).astype(np.float32)
