"""Damage by files: JPEG compression and a scan of too few pixels.

Both use libvips. Images are float32 HW3 RGB in [0, 1]. This module does not know about severities.
"""

from __future__ import annotations

import numpy as np
import pyvips
from scipy import ndimage


def jpeg(image: np.ndarray, quality: int, subsample: bool) -> np.ndarray:
    """Compress with libjpeg and read back; the grid of 8 px blocks starts at the image's corner.

    Args:
        image: float32 HW3 in [0, 1].
        quality: libjpeg's quality, 1 to 100.
        subsample: halve the colour planes (4:2:0), as most writers do.

    Returns:
        float32 HW3 in [0, 1], multiples of 1/255.
    """
    pixels = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)
    mode = "on" if subsample else "off"
    data = pyvips.Image.new_from_array(pixels, interpretation="srgb").jpegsave_buffer(
        Q=quality, subsample_mode=mode, keep="none"
    )
    return pyvips.Image.jpegload_buffer(data).numpy().astype(np.float32) / np.float32(255)


def low_resolution(
    image: np.ndarray, rng: np.random.Generator, factor: float, blur_px: float, noise_sigma: float
) -> np.ndarray:
    """Scan at too few pixels: blur, decimate, add noise, and enlarge to the old size with bicubic interpolation.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        factor: how many times fewer pixels per side, 1.5 to 4.
        blur_px: standard deviation of the optics' blur in pixels of the small image.
        noise_sigma: standard deviation of noise in the small image, units of the full range.

    Returns:
        float32 HW3 in [0, 1].

    Source:
        The classical model ``(x * k) decimated + n`` (Elad and Feuer, TIP 1997; BSRGAN, Zhang et al., ICCV 2021).
    """
    height, width = image.shape[:2]
    rows, columns = max(round(height / factor), 8), max(round(width / factor), 8)
    sigma = blur_px * factor
    blurred = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="mirror", truncate=3.0)
    small = _resize(blurred, rows, columns)
    small = np.clip(small + np.float32(noise_sigma) * rng.standard_normal(small.shape, dtype=np.float32), 0, 1)
    return np.clip(_resize(small, height, width), 0, 1)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    source = pyvips.Image.new_from_array(np.ascontiguousarray(image))
    resized: np.ndarray = source.resize(width / image.shape[1], vscale=height / image.shape[0], kernel="cubic").numpy()
    return resized
