"""Damage by the air between camera and scene: haze, rain, drops on the pane, snow.

Each function takes a float32 HW3 RGB image in [0, 1] and returns a new one. It does not know about severities.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fdi_lib.core.degrade.fields import plane, smooth_field, strokes

_DEPTH_SCALE_PX = 160.0


def haze(image: np.ndarray, rng: np.random.Generator, beta: float, airlight: np.ndarray, relief: float) -> np.ndarray:
    """Atmospheric scattering ``I = J t + A (1 - t)`` with ``t = exp(-beta depth)``.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness (the depth field: a ramp and smooth relief).
        beta: optical thickness at the farthest point, 0.5 to 1.4; the transmission there is ``exp(-beta)``.
        airlight: float32 3, RGB of the haze, near white-grey.
        relief: nearest depth is ``1 - relief`` of the farthest, in [0, 1].

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Koschmieder's law as used by RESIDE (Li et al., "Benchmarking single-image dehazing and beyond", TIP 2019).
    """
    shape = image.shape[:2]
    far = np.float32(0.6) * plane(shape, rng) + np.float32(0.4) * smooth_field(shape, rng, _DEPTH_SCALE_PX)
    depth = 1 - np.float32(relief) * far
    t = np.exp(-np.float32(beta) * depth)[..., None]
    return image * t + airlight.astype(np.float32) * (1 - t)


def rain(image: np.ndarray, rng: np.random.Generator, coverage: float, veil: float, tilt: float) -> np.ndarray:
    """Rain in three layers of depth over a veil of distant drops.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        coverage: share of the area that streaks cover, about; 0.05 to 0.4.
        veil: share of light scattered by distant rain at the farthest point, 0 to 0.3.
        tilt: heading against the vertical, radians.

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Layers of streaks with rain accumulation: Yang et al., "Deep joint rain detection and removal", CVPR 2017;
        streak brightness by depth: Garg and Nayar, "Vision and rain", IJCV 2007.
    """
    shape = image.shape[:2]
    sky = np.float32(rng.uniform(0.75, 0.95))
    depth = np.float32(0.5) * plane(shape, rng) + np.float32(0.5) * smooth_field(shape, rng, _DEPTH_SCALE_PX)
    mist = (np.float32(veil) * depth)[..., None]
    result = image * (1 - mist) + sky * mist
    heading = np.pi / 2 + tilt
    # Far streaks are short, thin, many and faint; near ones long, wide, few and out of focus.
    for share, length, width, opacity, soften in (
        (0.45, (5.0, 12.0), (0.8, 1.2), (0.25, 0.6), 0.0),
        (0.35, (12.0, 28.0), (1.0, 1.8), (0.4, 0.8), 0.0),
        (0.20, (28.0, 60.0), (1.8, 3.2), (0.3, 0.65), 0.8),
    ):
        streak_area = sum(length) * sum(width) / 4
        count = max(1, int(rng.poisson(share * coverage * shape[0] * shape[1] / streak_area)))
        layer = strokes(shape, rng, count, length, width, 0.0, (heading - 0.04, heading + 0.04), opacity)
        if soften:
            layer = ndimage.gaussian_filter(layer, soften)
        layer = layer[..., None]
        result = result * (1 - layer) + (np.float32(0.15) * result + np.float32(0.85) * sky) * layer
    return result


def snow(image: np.ndarray, rng: np.random.Generator, coverage: float, veil: float, tilt: float) -> np.ndarray:
    """Falling snow in three layers of depth over a faint veil.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        coverage: share of the area that flakes cover, about; 0.03 to 0.25.
        veil: share of light scattered by distant snow at the farthest point, 0 to 0.3.
        tilt: heading against the vertical, radians.

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Liu et al., "DesnowNet", TIP 2018 (Snow100K: small, medium and large flakes, translucent, with motion).
    """
    shape = image.shape[:2]
    white = np.float32(rng.uniform(0.88, 1.0))
    depth = np.float32(0.5) * plane(shape, rng) + np.float32(0.5) * smooth_field(shape, rng, _DEPTH_SCALE_PX)
    mist = (np.float32(veil) * depth)[..., None]
    result = image * (1 - mist) + white * mist
    heading = np.pi / 2 + tilt
    for share, size, opacity, soften in (
        (0.35, (1.2, 2.2), (0.5, 0.9), 0.4),
        (0.35, (2.5, 4.5), (0.6, 1.0), 0.8),
        (0.30, (5.0, 9.0), (0.5, 0.95), 1.7),
    ):
        count = max(1, int(rng.poisson(share * coverage * shape[0] * shape[1] / (sum(size) / 2) ** 2)))
        layer = strokes(shape, rng, count, size, size, 1.2, (heading - 0.5, heading + 0.5), opacity)
        layer = ndimage.gaussian_filter(layer, soften)[..., None]
        result = result * (1 - layer) + white * layer
    return result


def raindrop(
    image: np.ndarray, rng: np.random.Generator, coverage: float, radius_px: tuple[float, float], focus_px: float
) -> np.ndarray:
    """Drops on the pane: each shows the scene upside down, wide and unsharp, with a dark rim and a glint.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        coverage: share of the area under drops, about; 0.02 to 0.15.
        radius_px: smallest and largest radius.
        focus_px: width of a drop's unsharp edge, 1 to 4.

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Refraction as in Roser and Geiger, "Video-based raindrop detection for improved image registration", ICCV-W
        2009, and composition ``(1 - M) B + R`` of Qian et al., "Attentive GAN for raindrop removal", CVPR 2018.
    """
    height, width = shape = image.shape[:2]
    source = np.indices(shape, dtype=np.float32)
    cover, shade, glint = (np.zeros(shape, np.float32) for _ in range(3))
    # Small drops are more frequent than large ones; their area sets the count.
    area = np.pi * radius_px[0] * radius_px[1]
    for _ in range(max(1, int(rng.poisson(coverage * height * width / area)))):
        radius = radius_px[0] * (radius_px[1] / radius_px[0]) ** rng.random()
        y0, x0 = rng.uniform(0, height), rng.uniform(0, width)
        reach = 1.5 * radius + focus_px
        rows = slice(max(int(y0 - reach), 0), min(int(y0 + reach) + 2, height))
        columns = slice(max(int(x0 - reach), 0), min(int(x0 + reach) + 2, width))
        dy = (np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(y0))[:, None]
        dx = (np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(x0))[None, :]
        turn = np.arctan2(dy, dx)
        outline = 1 + sum(
            np.float32(rng.normal(0, 0.09)) * np.cos(np.float32(k) * turn + np.float32(rng.uniform(0, 6.28)))
            for k in (1, 2, 3)
        )
        sag = np.float32(rng.uniform(0.8, 1.0))  # drops hang: taller than wide
        rho = np.hypot(dy * sag, dx) / (np.float32(radius) * outline)
        alpha = np.clip((1 - rho) * np.float32(radius / focus_px) + np.float32(0.5), 0, 1)
        over = alpha > cover[rows, columns]
        wide = np.float32(rng.uniform(2.0, 4.0)) * (1 + rho * rho)
        source[0, rows, columns] = np.where(over, np.float32(y0) - wide * dy, source[0, rows, columns])
        source[1, rows, columns] = np.where(over, np.float32(x0) - wide * dx, source[1, rows, columns])
        rim = np.float32(rng.uniform(0.85, 1.1)) * (1 - np.float32(0.45) * np.minimum(rho, 1) ** 4)
        shade[rows, columns] = np.where(over, rim, shade[rows, columns])
        spot = np.exp(-((dy + 0.4 * radius) ** 2 + (dx + 0.25 * radius) ** 2) / np.float32(0.05 * radius**2 + 0.5))
        glint[rows, columns] = np.where(over, np.float32(rng.uniform(0.1, 0.5)) * spot, glint[rows, columns])
        cover[rows, columns] = np.maximum(cover[rows, columns], alpha)
    wet = cover > 0
    unsharp = ndimage.gaussian_filter(image, (1.5, 1.5, 0), mode="mirror", truncate=2.5)
    seen = np.stack(
        [ndimage.map_coordinates(unsharp[..., c], source[:, wet], order=1, mode="mirror") for c in range(3)]
    )
    drop = np.clip(seen.T * shade[wet][:, None] + glint[wet][:, None], 0, 1)
    alpha = cover[wet][:, None]
    result = image.copy()
    result[wet] = image[wet] * (1 - alpha) + drop * alpha
    return result
