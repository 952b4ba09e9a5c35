"""Do-no-harm gates between a candidate and its source: few numbers, each with a limit, kept in the ledger.

Limits follow from what the truth itself would need: on 150 tiles of calibration photographs, every degradation of the
protocol against the undamaged picture (docs/evaluation.md). They depend on the kind of damage, not on any model. Does
NOT know what becomes of a refused candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from fdi_lib.core.tiling import row_strips

BLANK = 0.02  # a candidate with less than this share of its source's contrast is blank
_BLOCK_PX = 8  # brightness and structure are those of the means of such blocks: grain and thin lines don't count
_BAND = 4.0  # blocks; structure coarser than this is illumination
_FAINT = 0.02  # structure of a lower standard deviation hardly counts, it may be noise

# Largest change of the mean brightness, of 1. Found: noise, jpeg 0.04, raindrop 0.03, blur and low_resolution below
# 0.01; rain, snow, stain 0.14, scratch 0.10; haze 0.48, shadow 0.37, fade 0.33, bleed_through 0.30; low_light 0.76.
_BRIGHTNESS = dict.fromkeys(("noise", "jpeg", "motion_blur", "defocus", "low_resolution", "raindrop"), 0.1)
_BRIGHTNESS |= dict.fromkeys(("rain", "snow", "stain", "scratch"), 0.25) | {"low_light": 0.9}
_OTHER_BRIGHTNESS = 0.6
# Least agreement of structure. Found at the least: 0.74 to 0.98 for these, 0.17 (shadow) to 0.56 (raindrop) for damage
# that lies on the picture and has a structure of its own.
_STRUCTURE = dict.fromkeys(
    ("noise", "jpeg", "haze", "low_light", "motion_blur", "defocus", "fade", "low_resolution"), 0.5
)
_OTHER_STRUCTURE = 0.1


class Gate(NamedTuple):
    """One check: the value must not be below the limit; that of ``brightness`` must not be above it."""

    name: str
    value: float
    limit: float
    ok: bool


def sound(before: np.ndarray, after: np.ndarray | None, finite: float) -> list[Gate]:
    """The gates that no setting turns off: every value is a number, and size, channels and depth are the source's.

    Args:
        before: HW or HW3, uint8 or uint16.
        after: the candidate; None where there is none because values were not finite.
        finite: share of finite values that the model gave.
    """
    gates = [Gate("finite", finite, 1.0, after is not None and finite == 1.0)]
    if after is not None:
        same = after.shape == before.shape and after.dtype == before.dtype
        gates.append(Gate("same_shape", float(same), 1.0, same))
    return gates


def plausible(before: np.ndarray, after: np.ndarray, names: Sequence[str]) -> list[Gate]:
    """The gates for what a picture may become when the named degradations are undone.

    ``not_blank``: share of the source's contrast. ``brightness``: change of the mean. ``structure``: the structure term
    of SSIM (Wang et al., 2004) over the whole picture, of block means without their coarsest part.

    Args:
        before: HW or HW3, uint8 or uint16.
        after: the same shape and dtype.
        names: what was undone; names unknown here get the widest limits but those of low light.
    """
    contrast = _contrast(before)
    blank = 1.0 if contrast == 0 else _contrast(after) / contrast
    a, b = _block_means(before), _block_means(after)
    shift, alike = abs(float(b.mean()) - float(a.mean())), _structure(a, b)
    most = min(0.95, sum(_BRIGHTNESS.get(name, _OTHER_BRIGHTNESS) for name in names))
    least = min((_STRUCTURE.get(name, _OTHER_STRUCTURE) for name in names), default=_OTHER_STRUCTURE)
    return [
        Gate("not_blank", blank, BLANK, blank >= BLANK),
        Gate("brightness", shift, most, shift <= most),
        Gate("structure", alike, least, alike >= least),
    ]


def _contrast(pixels: np.ndarray) -> float:
    """Standard deviation of all samples; a few rows at a time, since a scan may have 300 million."""
    count, total, squares = pixels.size, 0.0, 0.0
    for rows in row_strips(pixels):
        part = pixels[rows].astype(np.float64)
        total, squares = total + float(part.sum()), squares + float((part**2).sum())
    return float(np.sqrt(max(0.0, squares / count - (total / count) ** 2)))


def _block_means(pixels: np.ndarray) -> np.ndarray:
    """Mean over channels and blocks of 8 x 8 pixels, float32 in [0, 1]; an incomplete block at the end is left out."""
    height, width = pixels.shape[:2]
    block = min(_BLOCK_PX, height, width)
    rows = []
    for y in range(0, height - block + 1, block):
        strip = pixels[y : y + block, : width // block * block].astype(np.float32)
        strip = strip.mean(axis=2) if strip.ndim == 3 else strip
        rows.append(strip.reshape(block, -1, block).mean(axis=(0, 2)))
    return np.stack(rows) / np.float32(np.iinfo(pixels.dtype).max)


def _structure(a: np.ndarray, b: np.ndarray) -> float:
    """(covariance + c) / (product of deviations + c) of the two band-passed images: 1 for the same, 0 for unrelated."""
    a, b = (x - gaussian_filter(x, _BAND) for x in (a.astype(np.float64), b.astype(np.float64)))
    covariance, deviations = float(((a - a.mean()) * (b - b.mean())).mean()), float(a.std() * b.std())
    return (covariance + _FAINT**2) / (deviations + _FAINT**2)
