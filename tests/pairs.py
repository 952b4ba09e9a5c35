"""Pairs of a degraded and a clean picture on disk, as a user would have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fdi_lib.core.degrade import degrade


def blocks(number: int, cells: int) -> tuple[np.random.Generator, np.ndarray]:
    """A picture of ``cells`` x ``cells`` coloured squares of 8 px, float32 HW3, and the generator that drew it."""
    rng = np.random.default_rng(number)
    return rng, np.kron(rng.random((cells, cells, 3)), np.ones((8, 8, 1))).astype(np.float32)


def write_pairs(root: Path, name: str, count: int, cells: int = 12, digits: int = 2) -> Path:
    """Write ``degraded/NN.png`` and ``clean/NN.png`` (numbers of so many digits) below a folder; return it."""
    for i in range(count):
        rng, clean = blocks(i, cells)
        for side, image in (("clean", clean), ("degraded", degrade(name, clean, rng))):
            (root / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 255).astype(np.uint8)).save(root / side / f"{i:0{digits}d}.png")
    return root
