"""Smooth random fields and anti-aliased strokes: the shapes that the degradations are made of.

Everything is measured in pixels of the image given, so a crop and a whole picture show features of the same size.
This module does not know which degradation uses it, nor about colour.
"""

from __future__ import annotations

import numpy as np

_STEP_PX = 0.6  # spacing of the samples a stroke is made of: below one pixel, so that no gap shows


def smooth_field(shape: tuple[int, int], rng: np.random.Generator, scale_px: float, octaves: int = 2) -> np.ndarray:
    """Fractal value noise (Perlin's fade between random grid values).

    Args:
        shape: (height, width).
        rng: source of randomness.
        scale_px: size of the largest features, in pixels.
        octaves: layers, each with half the size and half the weight of the one before.

    Returns:
        float32 HW in [0, 1], mean near 0.5.
    """
    total = np.zeros(shape, np.float32)
    weights = 0.0
    for octave in range(octaves):
        weight = 0.5**octave
        total += np.float32(weight) * _value_noise(shape, rng, max(scale_px * weight, 1.0))
        weights += weight
    return total / np.float32(weights)


def _value_noise(shape: tuple[int, int], rng: np.random.Generator, scale_px: float) -> np.ndarray:
    places = [(np.arange(size) / scale_px) + rng.random() for size in shape]
    grid = rng.random([int(p[-1]) + 2 for p in places], dtype=np.float32)
    below = [p.astype(np.intp) for p in places]
    fade = [(t * t * (3 - 2 * t)).astype(np.float32) for t in (p - b for p, b in zip(places, below, strict=True))]
    rows = grid[below[0]] * (1 - fade[0])[:, None] + grid[below[0] + 1] * fade[0][:, None]
    mixed: np.ndarray = rows[:, below[1]] * (1 - fade[1]) + rows[:, below[1] + 1] * fade[1]
    return mixed


def plane(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a ramp in a random direction over the whole image, float32 HW in [0, 1]."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    ramp = y + x
    low, high = float(ramp.min()), float(ramp.max())
    return (ramp - np.float32(low)) / np.float32(high - low)


def splat(shape: tuple[int, int], y: np.ndarray, x: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """Add weighted points to an empty image, each shared by its four neighbours (bilinear).

    Args:
        shape: (height, width).
        y: rows in pixels, any shape; points outside the image are dropped.
        x: columns in pixels, same shape as y.
        weight: what a point adds, broadcastable to y.

    Returns:
        float32 HW, the sums.
    """
    weight = np.broadcast_to(np.asarray(weight, np.float32), y.shape)
    inside = (y > -1) & (y < shape[0]) & (x > -1) & (x < shape[1])
    y, x, weight = y[inside], x[inside], weight[inside]
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    down, right = y - top, x - left
    # One pixel of margin on every side takes what falls over the edge.
    stride = shape[1] + 2
    corner = (top + 1) * stride + left + 1
    size = (shape[0] + 2) * stride
    total = np.bincount(corner, weight * (1 - down) * (1 - right), size)
    total += np.bincount(corner + 1, weight * (1 - down) * right, size)
    total += np.bincount(corner + stride, weight * down * (1 - right), size)
    total += np.bincount(corner + stride + 1, weight * down * right, size)
    return total.reshape(shape[0] + 2, stride)[1:-1, 1:-1].astype(np.float32)


def strokes(
    shape: tuple[int, int],
    rng: np.random.Generator,
    count: int,
    length_px: tuple[float, float],
    width_px: tuple[float, float],
    bend: float,
    angle: tuple[float, float] = (0.0, np.pi),
    opacity: tuple[float, float] = (1.0, 1.0),
    jag_px: float = 0.0,
) -> np.ndarray:
    """Draw curved strokes at random places.

    Args:
        shape: (height, width).
        rng: source of randomness.
        count: how many strokes.
        length_px: shortest and longest.
        width_px: thinnest and widest; below one pixel a stroke is faint instead of thin.
        bend: standard deviation of the heading's change over a whole stroke, radians.
        angle: range of the heading, radians, 0 along a row.
        opacity: range of a stroke's opacity.
        jag_px: standard deviation of a random side-step every few pixels (a crack instead of a scratch).

    Returns:
        float32 HW in [0, 1], how much of each pixel is covered.
    """
    if count == 0:
        return np.zeros(shape, np.float32)
    steps = max(int(length_px[1] / _STEP_PX), 2)
    across = max(int(np.ceil(width_px[1] / _STEP_PX)), 1)
    length, width = rng.uniform(*length_px, count), rng.uniform(*width_px, count)
    heading = rng.uniform(*angle, count)[:, None]
    if bend:
        heading = heading + np.cumsum(rng.normal(0, bend / np.sqrt(steps), (count, steps)), axis=1)
    heading = np.broadcast_to(heading, (count, steps))
    stride = (length / steps)[:, None]
    y, x = np.cumsum(np.sin(heading) * stride, axis=1), np.cumsum(np.cos(heading) * stride, axis=1)
    if jag_px:
        knots = max(int(length_px[1] / 5), 2)
        sides = rng.normal(0, jag_px, (count, knots))
        place = np.linspace(0, knots - 1, steps)
        below = np.minimum(place.astype(np.intp), knots - 2)
        side = sides[:, below] * (1 - (place - below)) + sides[:, below + 1] * (place - below)
        y, x = y + side * np.cos(heading), x - side * np.sin(heading)
    middle = steps // 2
    y += (rng.uniform(0, shape[0], count) - y[:, middle])[:, None]
    x += (rng.uniform(0, shape[1], count) - x[:, middle])[:, None]
    offset = ((np.arange(across) + 0.5) / across - 0.5) * width[:, None]
    y = y[:, :, None] + (offset[:, None, :] * np.cos(heading)[:, :, None])
    x = x[:, :, None] - (offset[:, None, :] * np.sin(heading)[:, :, None])
    area = rng.uniform(*opacity, count) * (length / steps) * (width / across)
    return np.minimum(splat(shape, y, x, area[:, None, None]), np.float32(1))
