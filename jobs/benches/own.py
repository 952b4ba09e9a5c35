"""``python -m jobs.benches.own [FOLDER] [key=value ...]``: a new degradation from fifty pairs, in one command.

It prints photographs as halftones (:mod:`fdi_lib.core.degrade.press`): fifty pairs from the training pictures, at least
a hundred from the test pictures. It then runs ``fdi train manifests/train/own-degradation.yaml`` as a user would, and
measures what came out on the pairs made apart. ``FDI_DATA`` names the folder of the pictures. Changes are of the
training's manifest: with ``steps=20`` only what the classifier makes of it means something.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from fdi_lib.core.degrade.press import halftone
from fdi_lib.core.protocol import Tile, as_float, key_seed, quantise, spread
from fdi_lib.manifest import load_manifest
from fdi_lib.training.pictures import Split
from jobs import evaluate, train

TASK = "halftone"
_PAIRS, _APART, _TILE_PX = 50, 110, 256
_TABLE = "docs/training-data.tsv"


def run(folder: Path, pictures: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Make the pairs, train, measure; print the figures of the issue and return them."""
    for side, split, count in (("pairs", "train", _PAIRS), ("apart", "test", _APART)):
        _make(folder / side / TASK, pictures, split, count)  # type: ignore[arg-type]
    began = time.monotonic()
    own: Any = load_manifest(
        "manifests/train/own-degradation.yaml",
        [f"data.uri={folder / 'pairs' / TASK}", f"output={folder / 'adapters' / TASK}", f"task={TASK}", *changes],
        "train",
    )
    trained = train.run(own)
    minutes = (time.monotonic() - began) / 60
    measured: Any = load_manifest(
        "manifests/evaluate/folders.yaml",
        [
            f"data.uri={folder / 'apart'}",
            f"data.degradations=[{TASK}]",
            f"models.adapters={folder / 'adapters'}",
            f"output={folder / 'measured'}",
        ],
        "evaluate",
    )
    figures = evaluate.run(measured)["degradations"][TASK]
    summary = {
        "minutes": round(minutes, 1),
        "pairs": _PAIRS,
        "apart": figures["n"],
        "gain_db": figures["gain_db"],
        "gain_db_classified": figures["gain_db_classified"],
        "found": figures["found"],
        "accuracy_before": trained["accuracy_before"],
        "accuracy_after": trained["accuracy_after"],
    }
    print(json.dumps(summary, indent=1))
    return summary


def _make(folder: Path, pictures: str, split: Split, count: int) -> None:
    tiles = spread(evaluate.split_tiles(_TABLE, pictures, split, _TILE_PX), count, seed=0)
    for side in ("degraded", "clean"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for tile in tiles:
        name = f"{tile.picture}-{tile.number}.png"
        _write(folder / "degraded" / name, quantise(_printed(tile, split)))
        _write(folder / "clean" / name, tile.pixels)


def _printed(tile: Tile, split: str) -> np.ndarray:
    rng = np.random.default_rng(key_seed(TASK, split, tile.picture, tile.number))
    return halftone(as_float(tile.pixels), rng, rng.uniform(3.5, 6), rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9))


def _write(path: Path, pixels: np.ndarray) -> None:
    pyvips.Image.new_from_array(pixels, interpretation="srgb").pngsave(str(path))


if __name__ == "__main__":
    import os

    if "FDI_DATA" not in os.environ:
        sys.exit("set FDI_DATA to the folder that holds the pictures of docs/training-data.tsv")
    given = sys.argv[1:]
    named = [text for text in given if "=" not in text]
    run(Path(named[0] if named else "out/own"), os.environ["FDI_DATA"], [text for text in given if "=" in text])
