"""Images as integers, as files hold them, and as floats, as models compute. Pure arrays; it knows neither."""

from __future__ import annotations

import numpy as np

_LUMA = (np.float32(0.299), np.float32(0.587), np.float32(0.114))


def to_float_rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert (H, W) or (H, W, 3), uint8 or uint16, to (H, W, 3) float32 in [0, 1]; grey is repeated."""
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return np.repeat(scaled[..., None], 3, axis=2) if pixels.ndim == 2 else scaled


def from_float_rgb(rgb: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Convert RGB back to the kind of array that ``like`` is.

    Args:
        rgb: (H, W, 3) float32, RGB; clipped to [0, 1].
        like: (H, W) or (H, W, 3), uint8 or uint16, whose channels and dtype the result takes.

    Returns:
        (H, W) (Rec. 601 luma) or (H, W, 3), full range, rounded half to even.

    Raises:
        ValueError: a value is not a number.
    """
    if not np.isfinite(rgb).all():
        raise ValueError("values that are not numbers")
    # Spelled out, since a matrix product's last bit depends on threads and processor.
    values = sum(rgb[..., c] * weight for c, weight in enumerate(_LUMA)) if like.ndim == 2 else rgb
    top = np.iinfo(like.dtype).max
    return np.rint(np.clip(values, 0.0, 1.0) * np.float32(top)).astype(like.dtype)
