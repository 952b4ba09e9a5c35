"""Damage by the lens and the hand: camera shake and defocus.

Each function takes a float32 HW3 RGB image in [0, 1] and returns a new one; edges are mirrored. Blur is applied to
display-coded values, as the usual synthetic sets do. It does not know about severities.
"""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from fdi_lib.core.degrade.fields import splat

_PATH_STEPS = 160


def camera_shake_kernel(rng: np.random.Generator, length_px: float, curl: float) -> np.ndarray:
    """Draw the path of a shaking camera as a blur kernel.

    Args:
        rng: source of randomness.
        length_px: length of the path in pixels.
        curl: standard deviation of the heading's change over the whole path, radians; 0 is a straight pan.

    Returns:
        float32 K x K, K odd, sum 1, centred on its centre of mass.

    Source:
        Random trajectories of Boracchi and Foi, "Modeling the performance of image restoration from motion blur",
        TIP 2012: heading and speed are random walks with inertia.
    """
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, curl / np.sqrt(_PATH_STEPS), _PATH_STEPS))
    # A camera dwells where it turns: the speed wanders too, and a slow stretch is a bright one.
    speed = np.exp(np.cumsum(rng.normal(0, 0.08, _PATH_STEPS)))
    speed *= length_px / speed.sum()
    y, x = np.cumsum(np.sin(heading) * speed), np.cumsum(np.cos(heading) * speed)
    y, x = y - y.mean(), x - x.mean()
    half = int(np.ceil(max(np.abs(y).max(), np.abs(x).max()))) + 1
    kernel = splat((2 * half + 1, 2 * half + 1), y + half, x + half, 1.0)
    return kernel / kernel.sum()


def disc_kernel(radius_px: float) -> np.ndarray:
    """Return the circle of confusion of an ideal round aperture, float32 K x K, K odd, sum 1."""
    half = int(np.ceil(radius_px + 0.5))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    kernel = np.clip(radius_px + 0.5 - np.hypot(y, x), 0, 1).astype(np.float32)
    return kernel / kernel.sum()


def motion_blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Blur with a kernel from ``camera_shake_kernel``; image and result float32 HW3."""
    return _convolve(image, kernel)


def defocus(image: np.ndarray, radius_px: float, gaussian: bool) -> np.ndarray:
    """Blur by a lens out of focus.

    Args:
        image: float32 HW3 in [0, 1].
        radius_px: radius of the disc in pixels; a Gaussian gets the same spread (``sigma = radius / 2``).
        gaussian: Gaussian instead of disc (a lens with strong aberrations, or a soft enlargement).

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Pentland, "A new sense for depth of field", PAMI 1987 (Gaussian); geometric optics (disc).
    """
    if gaussian:
        sigma = radius_px / 2
        blurred: np.ndarray = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="mirror", truncate=3.5)
        return blurred
    return _convolve(image, disc_kernel(radius_px))


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    half = kernel.shape[0] // 2
    padded = np.pad(image.transpose(2, 0, 1), ((0, 0), (half, half), (half, half)), mode="symmetric")
    size = [fft.next_fast_len(n, real=True) for n in padded.shape[1:]]
    spectrum = fft.rfft2(padded, size) * fft.rfft2(kernel, size)
    # The kernel's origin is its corner, so the result is shifted by half a kernel on top of the padding.
    filtered: np.ndarray = fft.irfft2(spectrum, size)
    kept = filtered[:, 2 * half : 2 * half + image.shape[0], 2 * half : 2 * half + image.shape[1]]
    return np.ascontiguousarray(kept.transpose(1, 2, 0))
