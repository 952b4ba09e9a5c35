"""The recipes: how severe each degradation is, as ranges of its parameters.

A recipe draws the parameters of one degradation from ``rng`` at a severity in [0, 1] and applies it. Ranges are chosen
so that the mean PSNR over severities, on 256 px photographs, lies in the middle of the stated band.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fdi_lib.core.degrade import carrier, codec, light, optics, paper, sensor, weather

Recipe = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]


def _at(severity: float, mildest: float, worst: float) -> float:
    return mildest + (worst - mildest) * severity


def _noise(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """18-21 dB; sigma 15 to 50 of 255, at most a fifth of the variance from shot noise."""
    return sensor.noise(image, rng, _at(severity, 15, 50) / 255, rng.uniform(0, 0.2))


def _jpeg(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """25-28 dB; quality 18 to 3 in equal ratios, colour planes halved in four of five."""
    return codec.jpeg(image, round(18 * (3 / 18) ** severity), bool(rng.random() < 0.8))


def _haze(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """11-15 dB; transmission at the farthest point 0.67 to 0.32."""
    airlight = rng.uniform(0.8, 1.0) + rng.normal(0, 0.015, 3)
    return weather.haze(image, rng, _at(severity, 0.4, 1.15), np.clip(airlight, 0, 1), rng.uniform(0.2, 0.6))


def _low_light(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """7-10 dB; exposure 0.28 to 0.1, gamma 1.2 to 1.8, read noise 0.5 to 2 of 255."""
    gain, gamma = _at(severity, 0.28, 0.1) * rng.uniform(0.9, 1.1), _at(severity, 1.2, 1.6) + rng.uniform(-0.1, 0.2)
    return sensor.low_light(image, rng, gamma, gain, _at(severity, 0.5, 1.5) / 255, 4e-4)


def _scratch(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """15-20 dB; 3.5 to 20 % of the area damaged."""
    return carrier.scratch(image, rng, _at(severity, 0.035, 0.2), rng.uniform(0, 0.5), rng.uniform(0, 0.5))


def _motion_blur(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """22-27 dB; a path of 8 to 40 px, from nearly straight to curled."""
    length = _at(severity, 8, 40) * rng.uniform(0.9, 1.1)
    return optics.motion_blur(image, optics.camera_shake_kernel(rng, length, rng.uniform(0.2, 3.0)))


def _defocus(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """22-27 dB; radius 3 to 11 px, disc or (one in three) Gaussian of the same spread."""
    return optics.defocus(image, _at(severity, 3, 11), bool(rng.random() < 1 / 3))


def _rain(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """18-23 dB; 8 to 35 % of the area under streaks, up to 25 degrees from the vertical."""
    return weather.rain(image, rng, _at(severity, 0.08, 0.35), _at(severity, 0.05, 0.2), rng.uniform(-0.44, 0.44))


def _raindrop(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """25-31 dB; 3 to 14 % of the area under drops of 4 to 18 px radius."""
    return weather.raindrop(image, rng, _at(severity, 0.03, 0.14), (4.0, _at(severity, 12, 18)), rng.uniform(1.2, 3.5))


def _snow(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """18-23 dB; 3 to 14 % of the area under flakes."""
    return weather.snow(image, rng, _at(severity, 0.03, 0.14), _at(severity, 0.03, 0.15), rng.uniform(-0.5, 0.5))


def _shadow(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """13-18 dB; 40 to 70 % in shadow, 25 to 5 % of linear light left there, bluish."""
    ambient = _at(severity, 0.25, 0.05) * np.array([rng.uniform(0.8, 1.0), 1.0, rng.uniform(1.0, 1.3)])
    share, penumbra_px = rng.uniform(0.4, 0.7), rng.uniform(1.5, 8.0)
    return light.shadow(image, rng, share, ambient, penumbra_px, rng.uniform(60, 220), rng.uniform(0, 0.7))


def _fade(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """13-17 dB; 65 to 35 % of the dyes left, each another part (cyan goes first), paper yellowed."""
    kept = _at(severity, 0.65, 0.35) * np.array([rng.uniform(0.7, 1.0), rng.uniform(0.8, 1.1), rng.uniform(0.8, 1.2)])
    return paper.fade(image, rng, kept, rng.uniform(0, 0.15), rng.uniform(0.03, 0.15), rng.uniform(0, 0.12))


def _stain(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """20-26 dB; water on 35 to 70 % of the area, foxing on 0 to 8 %."""
    wet, foxing = rng.uniform(0.35, 0.7), rng.uniform(0, 0.08)
    return paper.stain(image, rng, _at(severity, 0.45, 1.0), wet, foxing)


def _bleed_through(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """16-21 dB; 60 to 95 % of the light lost under verso ink; print, script, or a picture in one of four."""
    kind = str(rng.choice(["print", "script", "picture"], p=[0.45, 0.3, 0.25]))
    return paper.bleed_through(image, rng, _at(severity, 0.6, 0.95), rng.uniform(0.7, 2.2), kind)


def _low_resolution(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """22-27 dB; 2 to 6 times fewer pixels a side, noise of 1 to 5 of 255."""
    noise_sigma = _at(severity, 1, 5) / 255
    return codec.low_resolution(image, rng, _at(severity, 2, 6), rng.uniform(0.3, 0.6), noise_sigma)


# The order of the names is the public one.
RECIPES: dict[str, Recipe] = {
    "noise": _noise,
    "jpeg": _jpeg,
    "motion_blur": _motion_blur,
    "defocus": _defocus,
    "haze": _haze,
    "rain": _rain,
    "raindrop": _raindrop,
    "snow": _snow,
    "low_light": _low_light,
    "shadow": _shadow,
    "fade": _fade,
    "scratch": _scratch,
    "stain": _stain,
    "bleed_through": _bleed_through,
    "low_resolution": _low_resolution,
}
