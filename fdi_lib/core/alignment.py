"""Do two pictures lie on each other? A sub-pixel shift that survives what a degradation does to the picture.

Windows are compared band by band, from fine detail to coarse shape, each normalised by its local contrast. Damage
spoils some bands: noise, scratches and weather the coarse or the fine, blur the fine ones, light and stains the coarse.
So one band is not believed: a shift counts only where two neighbouring bands agree on it, and none of the bands says
that nothing has moved. A blur whose kernel is lopsided looks like a shift at fine scales, and like less at coarse ones:
where fine detail is lost, no coarser band that matches better may say something else. Where bands contradict one
another, the answer is "can't be told", never "misaligned".

Pure arrays; measured on the fifteen synthetic degradations in ``tests/core/test_alignment.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.registration import phase_cross_correlation

from fdi_lib.core.floats import LUMA

LIMIT_PX = 1.25  # at this length a shift is a misalignment: coarse bands read true shifts of 2 px as 1.6 to 2.4
_SMALL_LIMIT_PX = 2.5  # the same for pictures too small for all bands, under 192 px: there is less to go by
_AGREE_PX = 0.75  # neighbouring bands that differ by less say the same
_STILL_PX = 0.5  # a band that reads less says that nothing has moved
_CONTRADICTS_PX, _CONTRADICTS = 1.25, 0.05  # a coarser band that differs by more, and whose peak is higher by more
_WINDOW_PX = 256
_SMALLEST_PX = 24  # side of the coarsest band's picture
_BANDS = 4
_BLURRED = 0.8  # share of detail left in the finest band, against the coarsest, under which a picture is blurred
_STEPS_PER_PX = 10
_FLAT = 1e-3  # RMS of a band, of full range 1, below which there is nothing to compare
# Peak correlations, finest band first, all of which two unrelated pictures stay under.
_UNRELATED = (0.2, 0.3, 0.45)
# Strength of degraded over clean detail from which noise, rain and the like may hide what both have in common.
_DROWNED = 2.0


@dataclass(frozen=True)
class Alignment:
    """How two pictures lie on each other.

    Args:
        shift_px: (down, right) by which the degraded picture's content has moved against the clean one's; None where
            it can't be told.
        misaligned: more than half of the windows that can tell have moved by ``LIMIT_PX`` or more (twice that in
            pictures under 192 px). Windows that move different ways (another scale, or a turn) count, too.
        unrelated: no window shows the same picture on both sides; pictures under 192 px are never called so.
    """

    shift_px: tuple[float, float] | None
    misaligned: bool
    unrelated: bool


def align(degraded: np.ndarray, clean: np.ndarray) -> Alignment:
    """Compare two pictures of one size, in one window at the centre, or in five where both sides have 512 px or more.

    Args:
        degraded: float32 HW3 or HW in [0, 1].
        clean: the same shape.
    """
    pair = _luma(degraded), _luma(clean)
    shifts, unrelated = [], []
    for y, x, height, width in _windows(*pair[1].shape):
        bands = _compare(*(side[y : y + height, x : x + width] for side in pair))
        if bands is None:
            continue
        shift = _believed(*bands)
        unrelated.append(_is_unrelated(*bands[1:]))
        if shift is not None and not unrelated[-1]:
            shifts.append(shift)
    if not shifts:
        return Alignment(None, False, bool(unrelated) and all(unrelated))
    limit = LIMIT_PX if min(pair[1].shape) >= _SMALLEST_PX * 2 ** (_BANDS - 1) else _SMALL_LIMIT_PX
    moved = np.linalg.norm(shifts, axis=1) >= limit
    down, right = np.median(shifts, axis=0)
    return Alignment((round(float(down), 2), round(float(right), 2)), bool(moved.mean() > 0.5), False)


def _luma(image: np.ndarray) -> np.ndarray:
    return image @ LUMA if image.ndim == 3 else image


def _windows(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width): the centre, and for large pictures one in each quarter as well."""
    h, w = min(height, _WINDOW_PX), min(width, _WINDOW_PX)
    centres = [(0.5, 0.5)]
    if min(height, width) >= 2 * _WINDOW_PX:
        centres += [(a, b) for a in (0.25, 0.75) for b in (0.25, 0.75)]
    return [(round(a * height - h / 2), round(b * width - w / 2), h, w) for a, b in centres]


def _compare(degraded: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Shifts B,2 in px, peak correlations B, strength of detail B (degraded over clean), finest band first.

    None where there is nothing to compare.
    """
    shifts, peaks, kept = [], [], []
    scale = 1
    for _ in range(_BANDS):
        if min(clean.shape) < _SMALLEST_PX:
            break
        details = [_detail(side) for side in (clean, degraded)]
        strengths = [float(np.sqrt((detail**2).mean())) for detail in details]
        if min(strengths) < _FLAT:
            break
        pair = [_normalised(detail, strength) for detail, strength in zip(details, strengths, strict=True)]
        shift, error, _ = phase_cross_correlation(*pair, upsample_factor=_STEPS_PER_PX, normalization=None)
        kept.append(strengths[1] / strengths[0])
        shifts.append(-shift * scale)
        peaks.append(np.sqrt(max(0.0, 1 - float(error) ** 2)))
        degraded, clean, scale = _half(degraded), _half(clean), scale * 2
    if len(shifts) < 2:
        return None
    return np.array(shifts), np.array(peaks), np.array(kept)


def _detail(image: np.ndarray) -> np.ndarray:
    """Detail of 1 to 2.5 px."""
    return np.asarray(gaussian_filter(image, 1.0) - gaussian_filter(image, 2.5))


def _normalised(detail: np.ndarray, strength: float) -> np.ndarray:
    """Divided by its local strength, and faded out towards the borders."""
    detail = detail / (np.sqrt(gaussian_filter(detail**2, 4.0)) + 0.25 * strength)
    fade = np.outer(*(np.hanning(side + 2)[1:-1] for side in detail.shape)).astype(np.float32)
    return (detail - detail.mean()) * fade


def _half(image: np.ndarray) -> np.ndarray:
    height, width = (side // 2 for side in image.shape)
    return image[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))


def _believed(shift_B2: np.ndarray, peak_B: np.ndarray, kept_B: np.ndarray) -> np.ndarray | None:
    """The shift that two neighbouring bands agree on and none denies; the two that match best win."""
    length_B = np.linalg.norm(shift_B2, axis=1)
    agree = np.flatnonzero(np.linalg.norm(np.diff(shift_B2, axis=0), axis=1) <= _AGREE_PX)
    if not len(agree):
        return None
    best = agree[np.argmax(peak_B[agree] + peak_B[agree + 1])]
    shift = np.asarray(shift_B2[best])
    blurred = kept_B[0] < _BLURRED * kept_B[-1]
    coarser = slice(best + 2, None)
    better = peak_B[coarser] > peak_B[best + 1] + _CONTRADICTS
    elsewhere = np.linalg.norm(shift_B2[coarser] - shift, axis=1) > _CONTRADICTS_PX
    denied = length_B.min() < _STILL_PX or (blurred and bool((better & elsewhere).any()))
    return None if denied and length_B[best] >= LIMIT_PX else shift


def _is_unrelated(peak_B: np.ndarray, kept_B: np.ndarray) -> bool:
    """Whether no band matches, although the clean picture's detail would stand out of any added one."""
    if len(peak_B) < _BANDS:
        return False
    fine = slice(len(_UNRELATED))
    return bool((peak_B[fine] < _UNRELATED).all() and (kept_B[fine] < _DROWNED).all())
