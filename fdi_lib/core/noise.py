"""Counter-based noise: a pixel's value depends on the key and its coordinates only, never on tile, batch or device."""

from __future__ import annotations

import hashlib

import numpy as np

_BLOCK = 64  # side of the blocks that one counter fills


def noise_key(seed: int, source_sha256: str, page: int = 0) -> int:
    """128-bit key of an image's noise."""
    digest = hashlib.sha256(f"{seed}:{source_sha256}:{page}".encode()).digest()
    return int.from_bytes(digest[:16], "big")


def noise_field(key: int, top: int, left: int, height: int, width: int, channels: int) -> np.ndarray:
    """Standard normal noise for a window of an infinite plane.

    Args:
        key: see :func:`noise_key`.
        top: first row of the window, >= 0.
        left: first column, >= 0.
        height: rows.
        width: columns.
        channels: values per position.

    Returns:
        float32 channels,height,width.
    """
    first_y, first_x = top // _BLOCK, left // _BLOCK
    last_y, last_x = (top + height - 1) // _BLOCK, (left + width - 1) // _BLOCK
    rows = []
    for by in range(first_y, last_y + 1):
        blocks = []
        for bx in range(first_x, last_x + 1):
            generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, by, bx]))
            blocks.append(generator.standard_normal((channels, _BLOCK, _BLOCK), np.float32))
        rows.append(np.concatenate(blocks, axis=2))
    plane = np.concatenate(rows, axis=1)
    y, x = top - first_y * _BLOCK, left - first_x * _BLOCK
    return plane[:, y : y + height, x : x + width]
