"""The fixed protocol of synthetic evaluation: which tiles, which severities, which mixtures, all from one seed.

Nothing here depends on a model, so that pictures, seeds and severities are fixed before any training. It does not
know how pictures are read or scored.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fdi_lib.core.degrade import degrade
from fdi_lib.core.order import in_order_of_damage


@dataclass(frozen=True)
class Tile:
    """One clean square of a test picture: uint8 HWC RGB, the picture it came from and its number there."""

    picture: str
    number: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Sample:
    """A degraded tile: what was applied, in order, and the result in uint8 HWC RGB as a file would hold it."""

    applied: tuple[str, ...]
    tile: Tile
    pixels: np.ndarray
    noise_key: int


def key_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on the parts only, on no process, order or platform."""
    digest = hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def spread(tiles: Sequence[Tile], count: int, seed: int) -> list[Tile]:
    """Choose ``count`` tiles, taking one picture after the other so that every picture gives as evenly as it can.

    All tiles are returned, in the same fixed order, when there are fewer.
    """
    queues: dict[str, list[Tile]] = {}
    for tile in sorted(tiles, key=lambda t: key_seed(seed, t.picture, t.number)):
        queues.setdefault(tile.picture, []).append(tile)
    rounds = [
        [queues[p][r] for p in sorted(queues) if r < len(queues[p])] for r in range(max(map(len, queues.values())))
    ]
    return [tile for one_round in rounds for tile in one_round][:count]


def degrade_tile(names: Sequence[str], tile: Tile, seed: int) -> Sample:
    """Apply degradations in the order given, each with severity uniform on [0, 1], and quantise to 8 bit.

    The random numbers are keyed by (seed, names applied so far, picture, tile).
    """
    image = as_float(tile.pixels)
    for i in range(len(names)):
        rng = np.random.default_rng(key_seed(seed, *names[: i + 1], tile.picture, tile.number))
        image = degrade(names[i], image, rng, float(rng.uniform()))
    return Sample(tuple(names), tile, quantise(image), key_seed(seed, "restore", *names, tile.picture, tile.number))


def mixtures(names: Sequence[str]) -> list[tuple[str, str]]:
    """All two-fold mixtures of the names, each in the order in which the damage happens (scene first, file last)."""
    return list(combinations(in_order_of_damage(names), 2))


def even_choice(pairs: Sequence[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """Choose ``count`` pairs in which every name takes part about evenly; all of them if there are fewer.

    One pair after the other is taken whose names were taken least so far; of equals the one with the smallest
    ``key_seed(seed, *pair)``. The choice depends on names and seed only, and comes in the order of ``pairs``.
    """
    taken: Counter[str] = Counter()
    chosen: set[tuple[str, str]] = set()
    while len(chosen) < min(count, len(pairs)):
        rest = [pair for pair in pairs if pair not in chosen]
        best = min(rest, key=lambda p: (max(taken[p[0]], taken[p[1]]), taken[p[0]] + taken[p[1]], key_seed(seed, *p)))
        chosen.add(best)
        taken.update(best)
    return [pair for pair in pairs if pair in chosen]


def quantise(image: np.ndarray) -> np.ndarray:
    """Float [0, 1] to uint8, rounding half to even and clipping; any shape."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def as_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 to float32 [0, 1]; any shape."""
    return pixels.astype(np.float32) / 255
