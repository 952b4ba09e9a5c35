"""Where tiles lie on an image and how they are blended. Pure geometry; it does not know what happens in a tile."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np

_STRIP_ROWS = 256


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
    """First positions of tiles that cover ``side`` with at least ``overlap`` between neighbours.

    The last tile ends with the image. One tile at 0 if the side fits in it.
    """
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def blend_window(tile: int, overlap: int) -> np.ndarray:
    """Weights of a tile's pixels: 1 inside, falling smoothly (raised cosine) over ``overlap`` to its border.

    Returns:
        float32 tile,tile, all positive.
    """
    ramp = np.ones(tile, np.float32)
    if overlap:
        edge = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)
        ramp[:overlap] = edge
        ramp[-overlap:] = np.minimum(ramp[-overlap:], edge[::-1])
    return np.maximum(ramp[:, None] * ramp[None, :], 1e-6)


def cut(image: np.ndarray, y: int, x: int, tile: int) -> np.ndarray:
    """Cut a tile of HW or HWC; an image smaller than the tile is mirrored on its lower and right sides up to it."""
    part = image[y : y + tile, x : x + tile]
    missing = [(0, tile - side) for side in part.shape[:2]]
    if missing == [(0, 0)] * 2:
        return part
    return np.pad(part, missing + [(0, 0)] * (image.ndim - 2), mode="symmetric")


def row_strips(image: Sized) -> Iterator[slice]:
    """Rows of an image, a few at a time: on all of a large scan at once a computation takes several times its size."""
    for start in range(0, len(image), _STRIP_ROWS):
        yield slice(start, start + _STRIP_ROWS)
