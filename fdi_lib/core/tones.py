"""A picture's tones, drawn as a picture: what haze, fading and bad light change, whatever the scene.

An encoder that has seen few photographs learns their scenes by heart before it learns what veils them. Sorted values
know no scene. Pure arrays.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import minimum_filter, uniform_filter

_LEAST = np.float32(0.02)  # what ratios are taken to, at least
CELLS = 2  # a patch holds CELLS x CELLS cells in three channels


def tone_chart(view_SSC: np.ndarray, patch_px: int) -> np.ndarray:
    """Draw the quantiles of twelve local measures, one quantile a patch, in the order of reading.

    The measures are red, green, blue, the darkest and the brightest channel, the dark channel of 7 x 7 pixels (He et
    al., CVPR 2009), chroma, saturation, grey, and the deviation of grey among 9 x 9 pixels, relative to their mean, and
    among 31 x 31. Square roots spread what is mostly small.

    Args:
        view_SSC: uint8 S,S,3 RGB; S a multiple of ``patch_px``.
        patch_px: side of a patch, an even number.

    Returns:
        uint8 S,S,3. Patch i of P shows the quantile i / (P - 1): four cells in three channels, twelve values.
    """
    x = view_SSC.astype(np.float32) / np.float32(255)
    least, most, grey = x.min(2), x.max(2), x.mean(2)
    chroma = most - least
    near, mean = _deviation(grey, 9)
    measures_PM = np.stack(
        [
            *np.moveaxis(x, 2, 0),
            least,
            most,
            minimum_filter(least, 7),
            np.sqrt(chroma),
            np.sqrt(chroma / np.maximum(most, _LEAST)),
            grey,
            np.sqrt(2 * near),
            np.sqrt(near / np.maximum(mean, _LEAST)),
            np.sqrt(2 * _deviation(grey, 31)[0]),
        ],
        axis=-1,
    ).reshape(-1, 3 * CELLS * CELLS)
    side = len(view_SSC) // patch_px
    wanted = np.rint(np.linspace(0, len(measures_PM) - 1, side * side)).astype(int)
    cells = np.sort(measures_PM, axis=0)[wanted].reshape(side, side, CELLS, CELLS, 3)
    patches = cells.repeat(patch_px // CELLS, axis=2).repeat(patch_px // CELLS, axis=3)
    chart = patches.swapaxes(1, 2).reshape(view_SSC.shape)
    return np.rint(np.clip(chart, 0, 1) * 255).astype(np.uint8)


def _deviation(grey: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation and mean of the ``size`` x ``size`` pixels around each."""
    mean = uniform_filter(grey, size)
    return np.sqrt(np.maximum(uniform_filter(grey * grey, size) - mean * mean, 0)), mean
