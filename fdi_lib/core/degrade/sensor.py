"""Damage by the sensor: noise and too little light.

Each function takes a float32 HW3 RGB image in [0, 1] (display-coded values) and returns a new one, unclipped unless
it says otherwise. It does not know about severities.
"""

from __future__ import annotations

import numpy as np


def noise(image: np.ndarray, rng: np.random.Generator, sigma: float, shot_share: float) -> np.ndarray:
    """Poisson-Gaussian noise in its heteroscedastic normal form.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        sigma: standard deviation at middle grey, in units of the full range (25/255 is the usual "sigma 25").
        shot_share: part of the variance that grows with the signal, 0 (Gaussian, as in CBSD68 tables) to 1.

    Returns:
        float32 HW3, not clipped.

    Source:
        Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", TIP 2008:
        variance = a * signal + b.
    """
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    if shot_share == 0:
        return image + np.float32(sigma) * grain
    variance = np.float32(sigma**2) * ((1 - np.float32(shot_share)) + np.float32(2 * shot_share) * image)
    return image + np.sqrt(variance) * grain


def low_light(
    image: np.ndarray,
    rng: np.random.Generator,
    gamma: float,
    gain: float,
    read_sigma: float,
    shot: float,
) -> np.ndarray:
    """Underexposure: ``gain * image ** gamma``, then shot and read noise.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        gamma: exponent, 1 to 2.5; above 1 it crushes the shadows.
        gain: exposure left, in (0, 1].
        read_sigma: standard deviation of the read noise, units of the full range.
        shot: variance of the shot noise per unit of signal.

    Returns:
        float32 HW3, not clipped.

    Source:
        Lv et al., "Attention guided low-light image enhancement with a large scale low-light simulation dataset",
        IJCV 2021 (``beta * (alpha * x) ** gamma``), with the noise model of ``noise``.
    """
    dark = np.float32(gain) * np.power(np.maximum(image, np.float32(1e-4)), np.float32(gamma))
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    return dark + np.sqrt(np.float32(shot) * dark + np.float32(read_sigma**2)) * grain
