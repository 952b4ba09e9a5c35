"""Where tiles lie on an image and how they are blended. Pure geometry; it does not know what happens in a tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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


def row_strips(image: np.ndarray) -> Iterator[slice]:
    """Rows of an image, a few at a time: on all of a large scan at once a computation takes several times its size."""
    for start in range(0, len(image), _STRIP_ROWS):
        yield slice(start, start + _STRIP_ROWS)


class Canvas:
    """Blends the tiles of one image, which come row by row from the top; holds the sums of one row of tiles only.

    Args:
        shape: (H, W) of the image.
        tile: side of a tile.
        overlap: of neighbours.
        put: takes finished rows, where they lie and their values RW3 float32, from the top.
    """

    def __init__(
        self, shape: tuple[int, int], tile: int, overlap: int, put: Callable[[slice, np.ndarray], None]
    ) -> None:
        self._tile, (height, width) = tile, shape
        rows = min(tile, height)
        alone = max(shape) <= tile
        window = np.ones((tile, tile), np.float32) if alone else blend_window(tile, overlap)
        # Once for each channel: numpy takes three times as long where it has to stretch a last axis of three.
        self._window_HW3 = np.repeat(window[..., None], 3, axis=2)
        self._sums, self._totals = np.zeros((rows, width, 3), np.float32), np.zeros((rows, width), np.float32)
        self._shape, self._top, self._put = shape, 0, put

    def add(self, y: int, x: int, piece_HW3: np.ndarray) -> None:
        """Blend a tile in, float32; what lies beyond the image is dropped. No tile lies above one that came before."""
        self._finish(y)
        height, width = (min(self._tile, n - at) for n, at in zip(self._shape, (y, x), strict=True))
        area, window_HW3 = np.s_[:height, x : x + width], self._window_HW3[:height, :width]
        self._sums[area] += piece_HW3[:height, :width] * window_HW3
        self._totals[area] += window_HW3[..., 0]

    def close(self) -> None:
        """Every tile has been added."""
        self._finish(self._shape[0])

    def _finish(self, y: int) -> None:
        """Rows above ``y`` get no more tiles."""
        done = min(y - self._top, len(self._sums))
        if done:
            values_RW3 = np.empty_like(self._sums[:done])
            for channel in range(3):
                np.divide(self._sums[:done, :, channel], self._totals[:done], out=values_RW3[..., channel])
            self._put(slice(self._top, self._top + done), values_RW3)
            for rows in (self._sums, self._totals):
                rows[:-done] = rows[done:]
                rows[-done:] = 0
            self._top += done
