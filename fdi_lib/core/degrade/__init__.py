"""Synthetic degradations after published models, for training, reference banks and evaluation.

One function per degradation (``sensor``, ``codec``, ``optics``, ``weather``, ``light``, ``paper``, ``carrier``) has
explicit parameters; ``table`` draws them from a severity. All of it works on one image: no storage, no models, no Ray.
"""

from __future__ import annotations

import numpy as np

from fdi_lib.core.degrade.table import RECIPES

__all__ = ["NAMES", "degrade"]

NAMES: tuple[str, ...] = tuple(RECIPES)

_SMALLEST_PX = 32


def degrade(name: str, image: np.ndarray, rng: np.random.Generator, severity: float | None = None) -> np.ndarray:
    """Degrade a clean picture.

    Args:
        name: one of ``NAMES``.
        image: float32 HW3 RGB in [0, 1], both sides at least 32 px; features are sized in its own pixels.
        rng: source of all randomness: the same state gives the same result.
        severity: 0 (mildest) to 1 (worst); None draws it uniformly.

    Returns:
        float32 HW3 RGB in [0, 1], same size, not rounded to 8 bits.

    Raises:
        ValueError: unknown name, severity outside [0, 1], or not such an image.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise ValueError(f"unknown degradation {name!r}: known are {', '.join(NAMES)}")
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _SMALLEST_PX:
        raise ValueError(f"expected an H x W x 3 image of at least {_SMALLEST_PX} px a side, got shape {image.shape}")
    if severity is None:
        severity = float(rng.random())
    if not 0 <= severity <= 1:
        raise ValueError(f"severity must lie in [0, 1], got {severity}")
    clean = np.asarray(image, np.float32)
    return np.clip(recipe(clean, rng, severity), 0, 1).astype(np.float32, copy=False)
