"""Images as integers, as files hold them, and as floats, as models compute. Pure arrays; it knows neither."""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G and B, ITU-R BT.601


def to_float_rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert (H, W) or (H, W, 3), uint8 or uint16, to (H, W, 3) float32 in [0, 1]; grey is repeated."""
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return np.repeat(scaled[..., None], 3, axis=2) if pixels.ndim == 2 else scaled
