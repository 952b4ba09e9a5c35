"""Images in tiles: cut into batches of one fixed shape, handed to a function of latents, blended together again.

It knows the base's latent space, not what is done in it. Suffixes: B batch of tiles, C channels, H and W height and
width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from fdi_lib.core.tiling import blend_window, cut, tile_starts
from fdi_lib.errors import CapacityError
from fdi_lib.models.base import Base

log = logging.getLogger(__name__)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Tile:
    """Where a tile lies: number of its image, and its upper left pixel there."""

    image: int
    y: int
    x: int


# The tiles of a batch and their pixels B3HW in [-1, 1] -> latents of the base, to be decoded.
Make = Callable[[list[Tile], torch.Tensor], torch.Tensor]


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

    def tiles(self, images: list[np.ndarray]) -> list[Tile]:
        """The tiles of all images, one image after the other."""
        return [
            Tile(i, y, x)
            for i, image in enumerate(images)
            for y in tile_starts(image.shape[0], self.tile_px, self.overlap_px)
            for x in tile_starts(image.shape[1], self.tile_px, self.overlap_px)
        ]

    def batches(self, images: list[np.ndarray], tiles: list[Tile]) -> Iterator[tuple[list[Tile], torch.Tensor]]:
        """Groups of exactly ``batch`` tiles (the last one repeats its last tile) and their pixels B3HW in [-1, 1]."""
        for first in range(0, len(tiles), self.batch):
            group = tiles[first : first + self.batch]
            group += [group[-1]] * (self.batch - len(group))
            cuts = [cut(images[t.image], t.y, t.x, self.tile_px) for t in group]
            yield group, torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2).contiguous().to(self.device)

    def over(self, images: list[np.ndarray], make: Make) -> list[np.ndarray]:
        """Images HW3 float32 in [-1, 1] -> what ``make`` gives for their tiles, decoded and blended; same shapes."""
        tiles = self.tiles(images)
        sums = [np.zeros(image.shape, np.float32) for image in images]
        totals = [np.zeros(image.shape[:2], np.float32) for image in images]
        whole = blend_window(self.tile_px, self.overlap_px)
        for done, (group, image_BCHW) in enumerate(self.batches(images, tiles)):
            made = self.base.decode(make(group, image_BCHW).float()).permute(0, 2, 3, 1).cpu().numpy()
            real = group[: len(tiles) - done * self.batch]  # the padding of the last batch is dropped
            for t, piece in zip(real, made, strict=False):
                shape = images[t.image].shape[:2]
                height, width = (min(self.tile_px, n - at) for n, at in zip(shape, (t.y, t.x), strict=True))
                alone = max(shape) <= self.tile_px
                window = np.ones((height, width), np.float32) if alone else whole[:height, :width]
                area = np.s_[t.y : t.y + height, t.x : t.x + width]
                sums[t.image][area] += piece[:height, :width] * window[..., None]
                totals[t.image][area] += window
        return [s / n[..., None] for s, n in zip(sums, totals, strict=True)]
