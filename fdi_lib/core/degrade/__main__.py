"""Draw every degradation once, at a fixed seed and middle severity: ``python -m fdi_lib.core.degrade [PNG]``.

Writes ``docs/degradations.png`` unless another path is given: five columns, in the order of ``NAMES``, read row by row;
the first two rows are scikit-image's astronaut, the third its coffee. It is a picture for people: nothing reads it.
"""

from __future__ import annotations

import sys

import numpy as np
import pyvips
from skimage import data

from fdi_lib.core.degrade import NAMES, degrade

_SEED = 16
_SEVERITY = 0.5
_TILE_PX = 176
_COLUMNS = 5


def sheet() -> np.ndarray:
    """Return all degradations side by side, uint8 HW3 RGB."""
    astronaut = data.astronaut()[20 : 20 + _TILE_PX, 140 : 140 + _TILE_PX]
    coffee = data.coffee()[70 : 70 + _TILE_PX, 200 : 200 + _TILE_PX]
    tiles = []
    for i, name in enumerate(NAMES):
        clean = (astronaut if i < 2 * _COLUMNS else coffee).astype(np.float32) / np.float32(255)
        degraded = degrade(name, clean, np.random.default_rng([_SEED, i]), _SEVERITY)
        tiles.append(np.rint(degraded * 255).astype(np.uint8))
    rows = [np.concatenate(tiles[i : i + _COLUMNS], axis=1) for i in range(0, len(tiles), _COLUMNS)]
    return np.concatenate(rows)


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "docs/degradations.png"
    # A palette keeps the file small; the dither is finer than any damage shown.
    pyvips.Image.new_from_array(sheet()).pngsave(path, palette=True, Q=95, keep="none")
