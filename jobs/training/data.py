"""What an adapter learns from: stored pairs, listed and not yet looked at, or clean tiles that are degraded on the fly.

Does NOT know the models (``plan.py``), nor whether pairs are any good (``pairs.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import TrainManifest
from fdi_lib.storage.pairs import PairRef
from fdi_lib.training.crops import Tiles
from fdi_lib.training.pairs import SyntheticPairs, gather, split
from fdi_lib.training.pictures import Picture, identity_of, read_list, training_tiles
from fdi_lib.training.together import MixedPairs
from jobs.training.checks import check_recipes

TILE_PX = 144


@dataclass(frozen=True)
class Clean:
    """Clean tiles with a recipe: which damage, to learn from, held out (of other pictures), of how many, and which."""

    damage: tuple[str, ...]
    learnt: SyntheticPairs
    held_out: SyntheticPairs
    pictures: int
    identity: list[str]


def data_of(manifest: TrainManifest) -> Clean | list[PairRef]:
    """What is learnt from: made pairs, already parted, or stored ones, not yet looked at.

    Raises:
        ManifestError: there are too few, or they can't be read.
    """
    data, seed = manifest.data, manifest.seed
    if data.kind != "clean":
        return gather(data.uri, data.kind, data.storage)[0]
    pictures = read_list(Path(data.pictures), Path(data.uri), "train")
    tasks = (data.degradation,) if data.degradation else manifest.names
    check_recipes(tasks, "data.degradation" if data.degradation else "tasks" if manifest.tasks else "task")
    if manifest.crop_px > TILE_PX:
        raise ManifestError(
            "larger than the tiles that clean pictures are cut into",
            key="crop_px",
            value=str(manifest.crop_px),
            remedy=f"use at most {TILE_PX}",
        )
    sides = split(pictures, data.validation_fraction, seed, lambda picture: picture.group_id)
    learnt, held = (synthetic(_tiles_of(tuple(side), seed), tasks) for side in sides)
    return Clean(tasks, learnt, held, len(sides[0]), identity_of(pictures))


def synthetic(tiles: Tiles, tasks: Sequence[str]) -> SyntheticPairs:
    """Clean tiles with the recipe of one degradation, or with those of several, alone and in twos."""
    return SyntheticPairs(tiles, tasks[0]) if len(tasks) == 1 else MixedPairs(tiles, tasks)


@lru_cache(maxsize=2)  # one after the other, adapters learn from the same pictures
def _tiles_of(pictures: tuple[Picture, ...], seed: int) -> np.ndarray:
    return training_tiles(pictures, TILE_PX, seed)
