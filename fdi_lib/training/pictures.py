"""Cuts clean training tiles from listed pictures, split once and by picture.

The list (``docs/training-data.tsv``) names every picture with its licence, sha256 and split; this module
reads nothing that is not listed and refuses a file whose hash differs. It does not know about degradations.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import pyvips

from fdi_lib.errors import ManifestError

Split = Literal["train", "calibration", "test", "reserve", "unseen"]
_SPLITS = {"unseen": ("test", "reserve")}  # splits that stand for several of the list's

# Reductions applied before cutting: every source is a JPEG, and averaging at least 2 x 2 pixels removes its
# artifacts ("truly clean"). Large pictures are cut at several scales for variety.
_REDUCTIONS = {"photo": (2, 3, 4), "garment": (2,), "plate": (3, 4)}
# What a classifier looks at is larger and more varied: whole scenes, and skies and walls with hardly any detail.
_SCENE_REDUCTIONS = {"photo": (2, 3, 4, 6, 8), "garment": (2,), "plate": (3, 4, 6)}
_SCENE_PX = {"photo": 256, "garment": 192, "plate": 256}
# As a whole a picture shows much the same at any of these, down to where its shorter side is this short.
_WHOLE_LEAST_PX = 192
# Few pictures are large: a cap per picture keeps one panorama, or one book of plates, from being the training set.
_PER_PICTURE = {"photo": 48, "garment": 4, "plate": 24}
_COLUMNS = ("picture", "group_id", "kind", "split", "sha256")  # others are for people


@dataclass(frozen=True)
class Picture:
    """One row of the picture list."""

    path: Path
    group_id: str  # pictures that show the same photograph share it; a split never cuts a group
    kind: str  # photo | garment | plate
    split: str
    sha256: str

    def load(self, reduction: int) -> np.ndarray:
        """Return the picture reduced ``reduction`` times, uint8 HWC RGB.

        Raises:
            ManifestError: the file's sha256 is not the listed one.
        """
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ManifestError(
                "picture differs from the list",
                key="data.uri",
                value=str(self.path),
                remedy="fetch the listed file again, or correct the picture list",
            )
        image = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="warning")
        image = image.colourspace("srgb")
        image = image.flatten() if image.hasalpha() else image
        return np.ascontiguousarray(image.resize(1 / reduction, kernel="lanczos3").numpy()[..., :3])


def read_list(table: Path, root: Path, split: Split) -> list[Picture]:
    """Read the pictures of one split, in the table's order; ``unseen`` is ``test`` and ``reserve``.

    Raises:
        ManifestError: the table, one of its columns or values, or a listed file is missing.
    """
    if not table.is_file():
        raise ManifestError(
            "picture list not found",
            key="data.pictures",
            value=str(table),
            remedy="run from the repository root or name the list",
        )
    rows = [row for row in _rows(table) if row["split"] in _SPLITS.get(split, (split,))]
    if not rows:
        raise ManifestError(
            f"no picture of split {split}",
            key="data.pictures",
            value=str(table),
            remedy="list some, or name another list",
        )
    pictures = [Picture(root / r["picture"], r["group_id"], r["kind"], r["split"], r["sha256"]) for r in rows]
    missing = [str(p.path) for p in pictures if not p.path.is_file()]
    if missing:
        raise ManifestError(
            f"{len(missing)} listed pictures are missing, the first is {missing[0]}",
            key="data.uri",
            value=str(root),
            remedy="set data.uri (or FDI_DATA) to the folder that holds them",
        )
    return pictures


def _rows(table: Path) -> list[dict[str, str]]:
    """All rows, each with a value for every column of ``_COLUMNS``."""

    def refuse(what: str, remedy: str) -> NoReturn:
        raise ManifestError(what, key="data.pictures", value=str(table), remedy=remedy)

    with table.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines, delimiter="\t")
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            remedy = f"the first line names the columns, tabs between them: {', '.join(_COLUMNS)}"
            refuse(f"the picture list has no column {', '.join(missing)}", remedy)
        rows: list[dict[str, str]] = []
        for row in reader:
            empty = next((column for column in _COLUMNS if not row[column]), None)
            if empty:
                refuse(f"line {reader.line_num} has no {empty}", "fill it in, or remove the line")
            if row["kind"] not in _REDUCTIONS:
                refuse(f"line {reader.line_num}: no such kind: {row['kind']}", f"use one of {', '.join(_REDUCTIONS)}")
            rows.append(row)
    return rows


def identity_of(pictures: Iterable[Picture]) -> list[str]:
    """What a training's recipe says of its pictures: their hashes, in order."""
    return [f"{picture.kind} {picture.sha256}" for picture in pictures]


def cut_grid(image: np.ndarray, tile_px: int) -> Iterator[np.ndarray]:
    """Yield the non-overlapping ``tile_px`` squares of an HWC image, row by row, centred on the image."""
    height, width = image.shape[:2]
    top, left = (height % tile_px) // 2, (width % tile_px) // 2
    for y in range(top, height - tile_px + 1, tile_px):
        for x in range(left, width - tile_px + 1, tile_px):
            yield image[y : y + tile_px, x : x + tile_px]


def whole_pictures(pictures: Sequence[Picture]) -> Iterator[tuple[Picture, np.ndarray]]:
    """Photographs as they were taken, uint8 HW3, at each reduction that leaves them large enough.

    Listed pictures that share their group are cuts of one photograph; a cut may be all sky, and is no whole picture.
    """
    listed = Counter(picture.group_id for picture in pictures)
    for picture in pictures:
        if picture.kind == "photo" and listed[picture.group_id] == 1:
            for image in map(picture.load, _SCENE_REDUCTIONS["photo"]):
                if min(image.shape[:2]) >= _WHOLE_LEAST_PX:
                    yield picture, image


def scene_tiles(pictures: Sequence[Picture], seed: int) -> dict[str, list[np.ndarray]]:
    """Cut what a classifier learns from: large tiles at many scales, flat ones too, at most the cap of each kind.

    Returns:
        By kind of picture, tiles uint8 T,T,3 RGB; T is 192 for garments (they are small) and 256 for others.
    """
    rng = np.random.default_rng(seed)
    scenes: dict[str, list[np.ndarray]] = {}
    with ThreadPoolExecutor() as pool:
        for picture, found in zip(pictures, pool.map(_scenes_of, pictures), strict=True):
            order = rng.permutation(len(found))[: _PER_PICTURE[picture.kind]]
            scenes.setdefault(picture.kind, []).extend(found[i] for i in order)
    return scenes


def _scenes_of(picture: Picture) -> list[np.ndarray]:
    side, reductions = _SCENE_PX[picture.kind], _SCENE_REDUCTIONS[picture.kind]
    return [tile.copy() for reduction in reductions for tile in cut_grid(picture.load(reduction), side)]


def training_tiles(pictures: Sequence[Picture], tile_px: int, seed: int) -> np.ndarray:
    """Cut tiles from each picture over its reductions, at most the cap of its kind.

    Flat tiles (standard deviation under 12 of 255) teach little and are left out in favour of others.

    Returns:
        uint8 array N x tile_px x tile_px x 3, RGB.
    """
    rng = np.random.default_rng(seed)
    tiles: list[np.ndarray] = []
    with ThreadPoolExecutor() as pool:
        for picture, found in zip(pictures, pool.map(partial(_tiles_of, tile_px), pictures), strict=True):
            order = rng.permutation(len(found))[: _PER_PICTURE[picture.kind]]
            tiles += [found[i] for i in order]
    if not tiles:
        raise ManifestError(
            "no picture is large enough for a tile",
            key="data.pictures",
            remedy=f"list pictures of more than {2 * tile_px} px a side",
        )
    return np.stack(tiles)


def _tiles_of(tile_px: int, picture: Picture) -> list[np.ndarray]:
    images = [picture.load(reduction) for reduction in _REDUCTIONS[picture.kind]]
    return [t for image in images if min(image.shape[:2]) >= tile_px for t in cut_grid(image, tile_px) if t.std() > 12]


def shared(tiles: Sequence[np.ndarray] | np.ndarray, path: Path, workers: int) -> Sequence[np.ndarray] | np.ndarray:
    """Tiles for so many processes besides this one to draw from: stored where there are any, else as they are."""
    return StoredTiles.write(path, tiles) if workers else tiles


class StoredTiles(Sequence[np.ndarray]):
    """Tiles in a ``.npy`` file, looked at where they lie: processes that draw from it share its memory. Picklable.

    Args:
        path: of an array N,T,T,3, written by :meth:`write`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tiles: np.ndarray | None = None

    @classmethod
    def write(cls, path: Path, tiles: Sequence[np.ndarray] | np.ndarray) -> StoredTiles:
        """Write tiles of one size."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(tiles))
        return cls(path)

    def __getstate__(self) -> dict[str, object]:
        """The path alone."""
        return self.__dict__ | {"_tiles": None}

    def __len__(self) -> int:
        return len(self._opened())

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._opened()[index]

    def _opened(self) -> np.ndarray:
        if self._tiles is None:
            self._tiles = np.load(self._path, mmap_mode="r", allow_pickle=False)
        return self._tiles
