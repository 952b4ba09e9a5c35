"""Tone of a large image: what its tiles can't tell from their own part is taken from a look at the whole.

Haze, darkness and fading are judged by the picture; a tile of plain sky is taken for haze. So the whole picture is
restored once more, reduced to one tile, and each tile's coarse means are moved to those of that view. Pure arrays; it
does not know what restores them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image

_CELLS = 8  # coarse means a side of a tile: 2 to 32 differ by a tenth to three tenths of a dB
_LEAST_PX = 48  # of a view's shorter side: narrower ones made dark strips worse


def has_view(shape: tuple[int, ...], side: int) -> bool:
    """Whether an image of H x W pixels is larger than ``side``, and its view not so narrow that it shows nothing."""
    longer, shorter = max(shape[:2]), min(shape[:2])
    return longer > side and shorter * side >= _LEAST_PX * longer


def whole_view(image: np.ndarray, side: int) -> np.ndarray:
    """Reduce an image so that it fits into a square, by means over cells of whole pixels.

    Args:
        image: HW or HW3, uint8 or uint16, or HW3 float32; larger than ``side``.
        side: of the square.

    Returns:
        The same kind of array, its longer side ``side``.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    rows, columns = (np.linspace(0, n, max(1, round(n * scale)) + 1).astype(int) for n in (height, width))
    view = np.empty((len(rows) - 1, len(columns) - 1, *image.shape[2:]), np.float32)
    cells = np.diff(columns).reshape(-1, *(1,) * (image.ndim - 2))
    for number, (top, bottom) in enumerate(pairwise(rows)):
        strip = image[top:bottom].mean(axis=0, dtype=np.float64)
        view[number] = np.add.reduceat(strip, columns[:-1], axis=0) / cells
    return view if image.dtype == np.float32 else np.rint(view).astype(image.dtype)


def with_tone_of(view: np.ndarray, piece: np.ndarray, part: tuple[float, float, float, float]) -> np.ndarray:
    """Move a tile's coarse means to those of a view of the whole image.

    Args:
        view: hw3 float32, the whole image, reduced.
        piece: 3HW float32, a tile of it in the same values.
        part: where the tile lies: top, left, bottom, right, as shares of the image's sides.

    Returns:
        3HW float32.
    """
    top, left, bottom, right = part
    height, width = view.shape[:2]
    box = (left * width, top * height, right * width, bottom * height)
    cells, size = (_CELLS, _CELLS), (piece.shape[2], piece.shape[1])
    result = np.empty_like(piece)
    for channel in range(3):
        wanted = Image.fromarray(view[..., channel]).resize(cells, Image.Resampling.BOX, box)
        has = Image.fromarray(piece[channel]).resize(cells, Image.Resampling.BOX)
        missing = Image.fromarray(np.asarray(wanted) - np.asarray(has))
        result[channel] = piece[channel] + np.asarray(missing.resize(size, Image.Resampling.BICUBIC))
    return result
