"""Crops that models learn from: what a source of pairs gives, and how a crop of a clean tile is varied. Pure arrays.

Does NOT know where pictures come from (``pairs.py``, ``scenes.py``); brings no torch, which tasks that read don't need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
Tiles = np.ndarray | Sequence[np.ndarray]


class PairSource(Protocol):
    """What a trainer draws from. Picklable; what is large is loaded in the worker, when it is first used."""

    def __len__(self) -> int:
        """Pairs (or tiles) to draw from: an epoch."""

    def crop(self, index: int, crop_px: int, seed: int) -> Pair:
        """Return a sample of a pair: (degraded, clean), same crop, flip and turn of both.

        Args:
            index: of the sample, 0 and up; may exceed ``len``.
            crop_px: side of the crop.
            seed: key of every choice, together with ``index``.

        Returns:
            float32 crop_px,crop_px,3 in [0, 1], RGB, twice.

        Raises:
            ManifestError: a picture that can't be read, or is smaller than the crop.
        """


def augmented_crop(tiles: Tiles, crop_px: int, rng: np.random.Generator, *, wide_tones: bool = False) -> np.ndarray:
    """Cut one random crop, flipped, turned and re-toned; sometimes grey.

    Args:
        tiles: N of them, uint8 T,T,3.
        crop_px: side of the crop.
        rng: source of every choice.
        wide_tones: also vary contrast, black point and saturation as far as undamaged pictures do.

    Returns:
        float32 crop_px,crop_px,3 in [0, 1], RGB.
    """
    tile = tiles[int(rng.integers(len(tiles)))]
    y, x = rng.integers(0, tile.shape[0] - crop_px + 1, 2)
    crop = np.rot90(tile[y : y + crop_px, x : x + crop_px], int(rng.integers(4))).astype(np.float32) / 255
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:  # other white balances and tones than the few pictures have
        crop = np.clip(crop * rng.uniform(0.85, 1.15, 3).astype(np.float32), 0, 1) ** rng.uniform(0.75, 1.3)
    if rng.random() < 0.15:
        crop = np.repeat(crop @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=2)
    if wide_tones and rng.random() < 0.6:
        grey = crop.mean(axis=2, keepdims=True)
        crop = grey + (crop - grey) * rng.uniform(0.4, 1.4)
        low, high = rng.uniform(0, 0.12), rng.uniform(0.75, 1.0)
        crop = low + (high - low) * np.clip(crop, 0, 1) ** rng.uniform(0.7, 1.4)
    return np.ascontiguousarray(crop, np.float32)
