"""Images in tiles: cut into batches of one fixed shape, and latents of those decoded and blended together again.

It knows the base's latent space, not what is done in it. Suffixes: B batch of tiles, C channels, H and W height and
width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch

from fdi_lib.core.tiling import cut, tile_starts
from fdi_lib.core.tone import with_tone_of
from fdi_lib.errors import CapacityError
from fdi_lib.models.base import Base
from fdi_lib.models.canvas import Canvas, Result
from fdi_lib.models.device import fetching, put

log = logging.getLogger(__name__)
Made = TypeVar("Made")
_Write = Callable[[], None]
_Fetched = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Tile:
    """Where a tile lies: number of its image, and its upper left pixel there."""

    image: int
    y: int
    x: int


class Tiling:
    """Work on images tile by tile.

    Args:
        base: whose latents are decoded.
        tile_px: side of a tile.
        overlap_px: overlap of neighbours.
        batch: tiles of one forward pass; every pass has exactly this many, unless they don't fit into memory.
        device: where pixels are put.
    """

    def __init__(self, base: Base, tile_px: int, overlap_px: int, batch: int, device: torch.device) -> None:
        self.base, self.tile_px, self.overlap_px = base, tile_px, overlap_px
        self.batch, self.device = batch, device
        self._asked = batch

    @property
    def note(self) -> str:
        """What a row should say of the batch; "" while it is what was asked for."""
        return f"in batches of {self.batch} tiles, not {self._asked}, for lack of memory" * (self.batch < self._asked)

    def fitting(self, work: Callable[[], Made]) -> Made:
        """Return ``work()``, done again in batches of half the size, now and later, where memory does not suffice.

        Raises:
            CapacityError: a single tile doesn't fit.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                if self.batch == 1:
                    tile = f"one tile of {self.tile_px} px"
                    raise CapacityError(f"{tile} doesn't fit into memory; lower restore.tile_px") from error
            self.batch //= 2  # out of the handler, which holds the tensors of the pass that failed
            log.warning("out of memory: %s from now on", self.note)
            torch.cuda.empty_cache()

    def tiles(self, images: Sequence[np.ndarray]) -> list[Tile]:
        """The tiles of all images, one image after the other."""
        return [
            Tile(i, y, x)
            for i, image in enumerate(images)
            for y in tile_starts(image.shape[0], self.tile_px, self.overlap_px)
            for x in tile_starts(image.shape[1], self.tile_px, self.overlap_px)
        ]

    def groups(self, tiles: list[Tile]) -> list[list[Tile]]:
        """Exactly ``batch`` tiles each; the last one repeats its last tile."""
        groups = [tiles[first : first + self.batch] for first in range(0, len(tiles), self.batch)]
        return [group + [group[-1]] * (self.batch - len(group)) for group in groups]

    def pixels(self, images: Sequence[np.ndarray], group: list[Tile]) -> torch.Tensor:
        """A group's pixels, B3HW float32 in [-1, 1], on the device."""
        # They go as they are stored: uint8 is a quarter of the bytes, and the GPU converts in no time.
        tiles_HW3 = [_signed(put(cut(images[t.image], t.y, t.x, self.tile_px), self.device)) for t in group]
        return torch.stack(tiles_HW3).permute(0, 3, 1, 2).contiguous()

    def over(
        self,
        images: Sequence[np.ndarray],
        made: Iterable[tuple[list[Tile], torch.Tensor]],
        like: Sequence[np.ndarray | None] | None = None,
        views: Mapping[int, np.ndarray] = MappingProxyType({}),
    ) -> list[Result]:
        """Decode and blend what was made of the tiles of images.

        Args:
            images: HW or HW3, uint8 or uint16; or HW3 float32 in [-1, 1]. Only their tiles are converted.
            made: their groups, in order, each with its latents; asked for one group ahead of what is blended, so that
                a GPU computes it meanwhile.
            like: for each image, see :class:`Result`.
            views: results of whole images, reduced, by number of the image: its tiles take their tone from it.
        """
        results = list[Result]()
        canvas: Canvas | None = None
        sent, due = list[_Write](), list[_Write]()  # finished rows: of this group, and of the one before it
        for group, pieces_B3HW, fetched in _one_ahead(self._decoded(made, bool(views))):
            for row, t in enumerate(dict.fromkeys(group)):  # without the last group's repetitions
                if canvas is None or t.image == len(results):
                    if canvas:
                        canvas.close()
                    results.append(Result(images[t.image].shape[:2], like[t.image] if like else None))
                    canvas = self._canvas(images[t.image], results[-1], sent)
                piece_3HW, view = pieces_B3HW[row], views.get(t.image)
                if fetched and view is not None:
                    piece_3HW = self._toned(fetched()[row], t, images[t.image], view)
                canvas.add(t.y, t.x, piece_3HW)
            del pieces_B3HW, piece_3HW, fetched  # a batch that nobody needs while the next but one is computed
            for write in due:
                write()
            due, sent[:] = list(sent), []
        if canvas:
            canvas.close()
        for write in (*due, *sent):
            write()
        return results

    def _canvas(self, image: np.ndarray, result: Result, sent: list[_Write]) -> Canvas:
        def done(rows: slice, values_3RW: torch.Tensor) -> None:
            sent.append(result.put(rows, values_3RW))

        return Canvas(image.shape[:2], self.tile_px, self.overlap_px, self.device, done)

    def _decoded(
        self, made: Iterable[tuple[list[Tile], torch.Tensor]], fetch: bool
    ) -> Iterator[tuple[list[Tile], torch.Tensor, _Fetched | None]]:
        """Groups of tiles, B3HW on the device and, if asked for, on their way from there."""
        for group, latent_BCHW in made:
            pieces_B3HW = self.base.decode(latent_BCHW)
            yield group, pieces_B3HW, fetching(pieces_B3HW) if fetch else None

    def _toned(self, piece_3HW: np.ndarray, tile: Tile, image: np.ndarray, view_hw3: np.ndarray) -> torch.Tensor:
        """A tile's part of the image, 3HW, its tone taken from the view (not finite where that is not)."""
        high, wide = image.shape[:2]
        height, width = min(self.tile_px, high - tile.y), min(self.tile_px, wide - tile.x)
        part = (tile.y / high, tile.x / wide, (tile.y + height) / high, (tile.x + width) / wide)
        return put(with_tone_of(view_hw3, piece_3HW[:, :height, :width], part), self.device)


def _one_ahead(items: Iterable[Made]) -> Iterator[Made]:
    """The same items, each when the next one is there."""
    waiting: list[Made] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _signed(pixels: torch.Tensor) -> torch.Tensor:
    """A tile HW or HW3, uint8 or uint16, or float32 as it shall be -> HW3 float32 in [-1, 1], on its device."""
    if pixels.dtype == torch.float32:
        return pixels
    # Divided by a tensor: by a number torch multiplies with its reciprocal on a GPU, and some last bits differ.
    top = torch.full((), torch.iinfo(pixels.dtype).max, dtype=torch.float32, device=pixels.device)
    signed = pixels.float() / top * 2 - 1
    return signed[..., None].expand(-1, -1, 3) if signed.ndim == 2 else signed
