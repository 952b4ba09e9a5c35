"""Damage by uneven light: cast shadows.

Images are float32 HW3 RGB in [0, 1]. This module does not know about severities.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fdi_lib.core.degrade.fields import plane, smooth_field

_DISPLAY_GAMMA = 2.2


def shadow(
    image: np.ndarray,
    rng: np.random.Generator,
    share: float,
    ambient: np.ndarray,
    penumbra_px: float,
    size_px: float,
    straight: float,
) -> np.ndarray:
    """Cast a soft shadow: the direct light is lost, the ambient light stays.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness (the occluder's outline).
        share: part of the image in shadow, in (0, 1).
        ambient: float 3, RGB light left in full shadow, of linear light, 0.05 to 0.5; bluish under a sky.
        penumbra_px: standard deviation of the soft edge, 1 to 12.
        size_px: size of the occluder's features, 30 to 250.
        straight: 0 (foliage, a hand) to 1 (the edge of a wall or of a page).

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Illumination model of Le and Samaras, "Shadow removal via shadow image decomposition", ICCV 2019.
    """
    shape = image.shape[:2]
    field = np.float32(1 - straight) * smooth_field(shape, rng, size_px, octaves=3) + np.float32(straight) * plane(
        shape, rng
    )
    # Every fourth sample in both directions is enough for the level that leaves the wanted share.
    level = np.quantile(field[::4, ::4], share)
    mask = ndimage.gaussian_filter((field < level).astype(np.float32), penumbra_px, mode="nearest", truncate=3.0)
    light = 1 - mask[..., None] * (1 - ambient.astype(np.float32))
    # With a power law for the display, scaling linear light is scaling the coded value.
    return image * np.power(light, np.float32(1 / _DISPLAY_GAMMA))
