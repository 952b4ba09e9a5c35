"""Damage to the carrier of a picture: scratches, dust and fold cracks.

Images are float32 HW3 RGB in [0, 1]. This module does not know about severities.
"""

from __future__ import annotations

import numpy as np

from fdi_lib.core.degrade.fields import strokes


def scratch(
    image: np.ndarray, rng: np.random.Generator, coverage: float, dark_share: float, cracks: float
) -> np.ndarray:
    """Scratches, dust, hairs and fold cracks: emulsion lost (light) or dirt held (dark).

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        coverage: share of the area that is damaged, about; 0.02 to 0.15.
        dark_share: part of it that is dark instead of light, in [0, 1].
        cracks: part of the light damage that is fold cracks, in [0, 1].

    Returns:
        float32 HW3 in [0, 1].

    Source:
        The mask-and-fill model of Wan et al., "Bringing old photos back to life", CVPR 2020, with drawn masks.
    """
    light = coverage * (1 - dark_share)
    result = image
    for share, tone in ((light, rng.uniform(0.82, 1.0)), (coverage - light, rng.uniform(0.0, 0.15))):
        tint = np.float32(tone) + rng.normal(0, 0.015, 3).astype(np.float32)
        crack_share = cracks if tone > 0.5 else 0.0
        mask = _lines(image.shape[:2], rng, share * (1 - crack_share) * 0.75, (24.0, 260.0), (0.8, 2.4), 0.25, 0.0)
        mask = np.maximum(
            mask, _lines(image.shape[:2], rng, share * crack_share * 0.75, (60.0, 320.0), (1.6, 3.6), 0.5, 1.3)
        )
        mask = np.maximum(mask, _dust(image.shape[:2], rng, share * 0.25))[..., None]
        result = result * (1 - mask) + tint * mask
    return np.clip(result, 0, 1)


def _lines(
    shape: tuple[int, int],
    rng: np.random.Generator,
    coverage: float,
    length_px: tuple[float, float],
    width_px: tuple[float, float],
    bend: float,
    jag_px: float,
) -> np.ndarray:
    # Long lines leave a small image early: count what stays inside, so that coverage holds at any size.
    inside_px = min(sum(length_px) / 2, 0.45 * min(shape))
    count = rng.poisson(coverage * shape[0] * shape[1] / (inside_px * sum(width_px) / 2))
    drift = rng.uniform(0, np.pi)  # most scratches of one picture run the same way
    return strokes(shape, rng, int(count), length_px, width_px, bend, (drift - 0.9, drift + 0.9), (0.75, 1.0), jag_px)


def _dust(shape: tuple[int, int], rng: np.random.Generator, coverage: float) -> np.ndarray:
    # Specks are very short strokes, hairs are thin and strongly curled.
    area = shape[0] * shape[1]
    specks = rng.poisson(0.6 * coverage * area / 6.0)
    hairs = rng.poisson(0.4 * coverage * area / 20.0)
    mask = strokes(shape, rng, int(specks), (1.0, 4.0), (1.2, 3.6), 0.0, opacity=(0.7, 1.0))
    return np.maximum(mask, strokes(shape, rng, int(hairs), (8.0, 32.0), (0.8, 1.4), 2.5, opacity=(0.7, 1.0)))
