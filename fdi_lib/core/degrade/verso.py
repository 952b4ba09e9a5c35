"""What the other side of a sheet carries: printed lines, handwriting or a picture.

It does not know how much of it shows through.
"""

from __future__ import annotations

import numpy as np

from fdi_lib.core.degrade.fields import splat
from fdi_lib.core.floats import LUMA

_STEP_PX = 0.6


def verso_ink(image: np.ndarray, rng: np.random.Generator, kind: str) -> np.ndarray:
    """Draw the verso as seen from the recto.

    Args:
        image: float32 HW3 in [0, 1]; a picture on the verso is made of it, mirrored and moved.
        rng: source of randomness.
        kind: ``print``, ``script`` or ``picture``.

    Returns:
        float32 HW in [0, 1], 1 where there is solid ink.

    Raises:
        ValueError: unknown kind.
    """
    shape = image.shape[:2]
    if kind == "print":
        return _print(shape, rng)
    if kind == "script":
        return _script(shape, rng)
    if kind == "picture":
        luma = image @ LUMA
        places = [np.arange(size) + rng.integers(2 * size) for size in shape]
        # Mirrored at its borders, so that the moved picture has no seam.
        rows, columns = (np.minimum(p % (2 * n), 2 * n - 1 - p % (2 * n)) for p, n in zip(places, shape, strict=True))
        return 1 - luma[rows][:, columns[::-1]]
    raise ValueError(f"unknown kind of verso {kind!r}: known are print, script, picture")


def _lines(shape: tuple[int, int], rng: np.random.Generator, spacing_px: float) -> tuple[np.ndarray, float, float]:
    # Baselines (in a frame turned by a small angle) that cover the image whatever the angle.
    slant = rng.normal(0, 0.04)
    reach = float(np.hypot(*shape)) / 2
    baselines = np.arange(-reach, reach, spacing_px) + rng.uniform(0, spacing_px)
    return baselines, slant, reach


def _place(shape: tuple[int, int], slant: float, along: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = shape[0] / 2 + down * np.cos(slant) + along * np.sin(slant)
    x = shape[1] / 2 + along * np.cos(slant) - down * np.sin(slant)
    return y, x


def _words(rng: np.random.Generator, cells: tuple[int, int]) -> np.ndarray:
    # About every seventh letter cell is a space.
    return rng.random(cells) > 1 / 7


def _print(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    height_px = rng.uniform(7, 16)  # of a capital letter
    baselines, slant, reach = _lines(shape, rng, height_px * rng.uniform(1.5, 2.0))
    pitch = 0.75 * height_px
    columns = np.arange(-reach, reach, pitch)
    rows, letters = len(baselines), len(columns)
    pen = height_px * rng.uniform(0.18, 0.3)
    # A letter is three straight strokes of its cell: a stem, a bar and a diagonal, each somewhere in the cell.
    steps = np.linspace(0, 1, max(int(height_px / _STEP_PX), 2))
    ends = rng.random((4, rows, letters, 3))
    ends[2, ..., 0], ends[0, ..., 0], ends[1, ..., 0] = ends[3, ..., 0], 0.0, 1.0  # upright
    ends[0, ..., 1] = ends[1, ..., 1]  # level
    down = ends[0][..., None] + (ends[1] - ends[0])[..., None] * steps
    along = ends[2][..., None] + (ends[3] - ends[2])[..., None] * steps
    down = baselines[:, None, None, None] + (down - 1) * height_px
    along = columns[None, :, None, None] + along * 0.55 * height_px
    length = np.hypot((ends[1] - ends[0]) * height_px, (ends[3] - ends[2]) * 0.55 * height_px)
    weight = (length * pen / len(steps)) * _words(rng, (rows, letters))[..., None]
    return _draw(shape, slant, along, down, np.broadcast_to(weight[..., None], along.shape), pen)


def _script(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    height_px = rng.uniform(6, 13)  # of a small letter
    baselines, slant, reach = _lines(shape, rng, height_px * rng.uniform(1.9, 2.8))
    pen = rng.uniform(1.6, 3.0)
    loop_px = height_px * rng.uniform(0.7, 1.0)
    samples = int(2 * reach / loop_px * 4.5 * height_px)
    # A cursive hand is an oscillation carried along the line; its size and slant change from letter to letter.
    phase = np.linspace(0, 2 * np.pi * 2 * reach / loop_px, samples)
    letter = (phase / (2 * np.pi)).astype(np.intp)
    letters, rows = int(letter[-1]) + 1, len(baselines)
    tall = np.where(rng.random((rows, letters)) < 0.2, rng.uniform(1.5, 2.2, (rows, letters)), 1.0)
    size = tall * rng.uniform(0.6, 1.1, (rows, letters))
    rise = (1 - np.cos(phase)) / 2 * size[:, letter] * height_px
    wander = rng.uniform(-0.35, 0.35, (rows, letters))[:, letter] * np.sin(phase) * loop_px
    along = np.linspace(-reach, reach, samples) + wander + 0.35 * rise
    down = baselines[:, None] - rise
    travel = np.hypot(np.gradient(along, axis=1), np.gradient(down, axis=1))
    weight = travel * pen * _words(rng, (rows, letters))[:, letter]
    return _draw(shape, slant, along, down, weight, pen)


def _draw(
    shape: tuple[int, int], slant: float, along: np.ndarray, down: np.ndarray, weight: np.ndarray, pen: float
) -> np.ndarray:
    drawn = weight > 0
    y, x = _place(shape, slant, along[drawn], down[drawn])
    across = max(int(np.ceil(pen / _STEP_PX)), 1)
    offset = ((np.arange(across) + 0.5) / across - 0.5) * pen
    # A pen held at 45 degrees, as ruled nibs are.
    ink = splat(shape, y[:, None] - 0.7 * offset, x[:, None] + 0.7 * offset, weight[drawn][:, None] / across)
    return np.minimum(ink, np.float32(1))
