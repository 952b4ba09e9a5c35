"""Tiles blended into images where they were computed: what leaves a GPU is finished rows, in the kind of the image.

It knows neither models nor what is in a tile. Suffixes: H and W height and width, R rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fdi_lib.core.tiling import blend_window, row_strips
from fdi_lib.models.device import fetching, put

_LUMA = tuple(float(np.float32(weight)) for weight in (0.299, 0.587, 0.114))  # Rec. 601


class Canvas:
    """Blends the tiles of one image, which come row by row from the top; holds the sums of one row of tiles only.

    Args:
        shape: (H, W) of the image.
        tile: side of a tile.
        overlap: of neighbours.
        device: of the tiles.
        done: takes finished rows, where they lie and their values 3RW float32, from the top.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        tile: int,
        overlap: int,
        device: torch.device,
        done: Callable[[slice, torch.Tensor], None],
    ) -> None:
        self._tile, (height, width) = tile, shape
        rows = min(tile, height)
        window = np.ones((tile, tile), np.float32) if max(shape) <= tile else blend_window(tile, overlap)
        self._window_HW = put(window, device)
        self._sums_3RW = torch.zeros((3, rows, width), device=device)
        self._totals_RW = torch.zeros((rows, width), device=device)
        self._shape, self._top, self._done = shape, 0, done

    def add(self, y: int, x: int, piece_3HW: torch.Tensor) -> None:
        """Blend a tile in, float32; what lies beyond the image is dropped. No tile lies above one that came before."""
        self._finish(y)
        height, width = (min(self._tile, n - at) for n, at in zip(self._shape, (y, x), strict=True))
        window_HW = self._window_HW[:height, :width]
        # Multiplied, then added: one instruction for both would round once, and not on every processor.
        self._sums_3RW[:, :height, x : x + width] += piece_3HW[:, :height, :width] * window_HW
        self._totals_RW[:height, x : x + width] += window_HW

    def close(self) -> None:
        """Every tile has been added."""
        self._finish(self._shape[0])

    def _finish(self, y: int) -> None:
        """Rows above ``y`` get no more tiles."""
        rows = min(y - self._top, len(self._totals_RW))
        if rows:
            for strip in row_strips(range(rows)):  # a few at a time: very wide images have room for no more
                part = slice(strip.start, min(strip.stop, rows))
                values_3RW = self._sums_3RW[:, part] / self._totals_RW[part]
                self._done(slice(self._top + part.start, self._top + part.stop), values_3RW)
            for sums in (self._sums_3RW, self._totals_RW):
                left = sums[..., rows:, :].clone()
                sums[..., :-rows, :] = left
                sums[..., -rows:, :] = 0
            self._top += rows


class Result:
    """A restored image, filled in from the top.

    Args:
        shape: (H, W).
        like: an image HW or HW3, uint8 or uint16, of whose kind ``pixels`` are; None for HW3 float32, nominally in
            [-1, 1] and not clipped, four times as large: what another pass goes on from.
    """

    def __init__(self, shape: tuple[int, int], like: np.ndarray | None) -> None:
        self.pixels = np.empty((*shape, 3), np.float32) if like is None else np.empty_like(like)
        self._finite = 0

    @property
    def finite(self) -> float:
        """Share of values that are finite; below 1 integer ``pixels`` are incomplete."""
        return self._finite / (3 * self.pixels.shape[0] * self.pixels.shape[1])

    def put(self, rows: slice, values_3RW: torch.Tensor) -> Callable[[], None]:
        """Take rows of floats, nominally in [-1, 1]; return what sets them, and waits until they are computed."""
        as_they_are = self.pixels.dtype == np.float32
        made = values_3RW.permute(1, 2, 0) if as_they_are else self._integers(values_3RW)
        fetched, finite = fetching(made.contiguous()), fetching(torch.isfinite(values_3RW).sum())
        count = values_3RW.numel()  # not the values themselves, which would be kept until they are written

        def write() -> None:
            self._finite += (here := int(finite()))
            if as_they_are or here == count:
                self.pixels[rows] = fetched()

        return write

    def _integers(self, values_3RW: torch.Tensor) -> torch.Tensor:
        """RW3 or, grey, RW (luma), full range, rounded half to even."""
        unit_3RW = (values_3RW / 2 + 0.5).clamp(0, 1)
        if self.pixels.ndim == 2:
            # Spelled out, since a matrix product's last bit depends on threads and processor.
            red, green, blue = (channel_RW * weight for channel_RW, weight in zip(unit_3RW, _LUMA, strict=True))
            unit = (red + green + blue).clamp(0, 1)
        else:
            unit = unit_3RW.permute(1, 2, 0)
        kind = torch.from_numpy(self.pixels[:0]).dtype
        return (unit * torch.iinfo(kind).max).round().to(kind)


def as_image(out_HW3: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Convert HW3 float32 in [-1, 1] to an image of the kind of ``like``, a few rows at a time.

    Raises:
        ValueError: a value is not a number.
    """
    result = Result(out_HW3.shape[:2], like)
    for rows in row_strips(out_HW3):
        result.put(rows, torch.from_numpy(out_HW3[rows]).permute(2, 0, 1))()
    if result.finite < 1:
        raise ValueError("values that are not numbers")
    return result.pixels
