"""Clean pictures that the encoder learns on: listed ones recoloured, re-toned and pieced together, and made ones.

A few dozen photographs hold few skies, walls and palettes, and an encoder soon knows them by heart. Made pictures never
come twice: ramps with faint texture, and dead leaves (opaque shapes of all sizes that cover one another), whose
statistics of edges and scales are those of photographs. Knows no degradation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fdi_lib.core.degrade.fields import plane, smooth_field
from fdi_lib.training.crops import augmented_crop

Scenes = Mapping[str, Sequence[np.ndarray] | np.ndarray]
SIDES = (96, 128, 192, 192, 256, 256)  # px: the whole view is reduced 1 to 2.7 times
# Share of each kind. Garments and plates are plentiful, but say little of what archives hold.
_KINDS = {"photo": 0.62, "garment": 0.08, "plate": 0.08, "smooth": 0.08, "leaves": 0.14}
_RECOLOURED, _PIECED, _RETONED = 0.35, 0.15, 0.7


def clean_scene(scenes: Scenes, rng: np.random.Generator, sides: Sequence[int] = SIDES) -> np.ndarray:
    """Draw one clean picture.

    Args:
        scenes: by kind of picture, clean tiles (uint8 T,T,3), see :func:`fdi_lib.training.pictures.scene_tiles`.
        rng: source of every choice.
        sides: px to choose from; a tile that is smaller gives a smaller scene.

    Returns:
        float32 S,S,3 RGB in [0, 1], S one of several sizes.
    """
    side = int(rng.choice(sides))
    first = _one(scenes, side, rng)
    if rng.random() >= _PIECED:
        return first
    side = len(first)
    second = _one(scenes, side, rng)
    side = min(side, len(second))
    behind = plane((side, side), rng) > rng.uniform(0.25, 0.75)
    return np.where(behind[..., None], second[:side, :side], first[:side, :side])


def _one(scenes: Scenes, side: int, rng: np.random.Generator) -> np.ndarray:
    present = [kind for kind in _KINDS if kind in ("smooth", "leaves") or scenes.get(kind)]
    odds = np.array([_KINDS[kind] for kind in present])
    kind = present[int(rng.choice(len(present), p=odds / odds.sum()))]
    if kind == "smooth":
        return smooth(side, rng)
    if kind == "leaves":
        return leaves(side, rng)
    tiles = scenes[kind]
    tile = tiles[int(rng.integers(len(tiles)))]
    if rng.random() < _RECOLOURED:  # other colours for the same content: haze is known by its grey, not by blue skies
        tile = tile[..., rng.permutation(3)]
    return augmented_crop(tile[None], min(side, len(tile)), rng, wide_tones=bool(rng.random() < _RETONED))


def smooth(side: int, rng: np.random.Generator) -> np.ndarray:
    """Make a sky or a wall: two colours that blend along a ramp and low relief, faint texture; float32 S,S,3."""
    blend = 0.7 * plane((side, side), rng) + 0.3 * smooth_field((side, side), rng, float(rng.uniform(40, 200)))
    colours = _palette(2, rng)
    image = colours[0] + (colours[1] - colours[0]) * blend[..., None].astype(np.float32)
    texture = smooth_field((side, side), rng, float(rng.uniform(2, 12)), octaves=3) - 0.5
    image = image + np.float32(rng.uniform(0, 0.12)) * texture[..., None]
    return np.clip(image, 0, 1).astype(np.float32)


def pale(side: int, rng: np.random.Generator) -> np.ndarray:
    """Make a pale sky or wall: one of :func:`smooth` mixed with white, or with a grey; float32 S,S,3."""
    share, grey = (rng.uniform(0.2, 0.85), 1.0) if rng.random() < 0.5 else (rng.uniform(0.2, 0.7), rng.uniform(0.3, 1))
    image = smooth(side, rng)
    return np.asarray(image + np.float32(share) * (np.float32(grey) - image), np.float32)


def leaves(side: int, rng: np.random.Generator) -> np.ndarray:
    """Make dead leaves (Lee, Mumford and Huang, IJCV 2001): sizes follow a power law; float32 S,S,3."""
    colours = _palette(int(rng.integers(3, 8)), rng)
    image = np.broadcast_to(colours[0], (side, side, 3)).copy()
    smallest, largest = rng.uniform(3, 10), side * rng.uniform(0.2, 0.6)
    for _ in range(int(rng.integers(80, 300))):
        radius = smallest * (1 - rng.random() * (1 - smallest / largest)) ** -1.0  # density ~ radius^-2
        y0, x0 = rng.uniform(-radius, side + radius, 2)
        rows = slice(max(0, int(y0 - radius)), min(side, int(y0 + radius) + 1))
        columns = slice(max(0, int(x0 - radius)), min(side, int(x0 + radius) + 1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        dy = (np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(y0))[:, None] / np.float32(radius)
        dx = (np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(x0))[None, :] / np.float32(radius)
        turn, flat = rng.uniform(0, np.pi), rng.uniform(0.25, 1)
        u, v = dy * np.cos(turn) + dx * np.sin(turn), (dx * np.cos(turn) - dy * np.sin(turn)) / flat
        inside = (u * u + v * v < 1) if rng.random() < 0.6 else (np.maximum(np.abs(u), np.abs(v)) < 0.7)
        shade = 1 + np.float32(rng.uniform(-0.4, 0.4)) * u
        colour = colours[int(rng.integers(len(colours)))] + rng.normal(0, 0.04, 3).astype(np.float32)
        image[rows, columns] = np.where(inside[..., None], colour * shade[..., None], image[rows, columns])
    texture = smooth_field((side, side), rng, float(rng.uniform(2, 12)), octaves=3) - 0.5
    image = image + np.float32(rng.uniform(0, 0.3)) * texture[..., None] * image.mean(2, keepdims=True)
    return np.clip(image, 0, 1).astype(np.float32)


def _palette(count: int, rng: np.random.Generator) -> np.ndarray:
    """Colours float32 N,3 in [0, 1]; a palette is anything from grey to saturated."""
    colours = rng.beta(0.8, 0.9, (count, 3)).astype(np.float32)
    grey = colours.mean(1, keepdims=True)
    return np.asarray(grey + (colours - grey) * np.float32(rng.uniform(0.1, 1)), np.float32)
