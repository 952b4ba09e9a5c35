"""Pairs of a degraded and a clean picture: list them as a stream, read both sides, decode them upright.

Two forms, at a local path or on S3:

``pairs``   folders ``degraded/`` and ``clean/``, paired by path without extension (extensions may differ)
``shards``  tars with members ``KEY.degraded.EXT`` and ``KEY.clean.EXT``, and Parquet files with binary columns
            ``degraded`` and ``clean`` (encoded files, or structs with ``bytes``) and an optional column ``name``

Does NOT judge whether two pictures belong together (``fdi_lib.training.pair_checks``), nor cut or augment them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyvips

from fdi_lib.errors import ItemError
from fdi_lib.manifest import StorageSettings
from fdi_lib.records import Reason
from fdi_lib.storage.images import decode
from fdi_lib.storage.shards import READ_AHEAD_BYTES, RangeReader, tar_members
from fdi_lib.storage.sources import is_image, read_image
from fdi_lib.storage.store import ObjectEntry, Store, extension

Form = Literal["pairs", "shards"]
SIDES = ("degraded", "clean")
_LITTLE_AHEAD_BYTES = 64 * 2**10  # headers of a tar; Parquet reads ahead itself
_FEW_ROWS = 8
# EXIF orientation -> quarter turns (counter-clockwise) after an optional transposition that makes the picture upright.
_TURNS = {2: (True, 3), 3: (False, 2), 4: (True, 1), 5: (True, 0), 6: (False, 3), 7: (True, 2), 8: (False, 1)}


@dataclass(frozen=True, slots=True)
class Side:
    """Where one picture's bytes lie: a file, a tar's member (``offset``, ``length``), or a Parquet row's column."""

    object: str
    kind: Literal["file", "tar", "parquet"] = "file"
    offset: int = 0
    length: int = 0
    row: int = -1


@dataclass(frozen=True, slots=True)
class PairRef:
    """One pair, not yet read.

    Args:
        name: path without side and extension (``box/0001``), with the shard before it; unique in a listing.
        degraded: where the degraded picture lies.
        clean: where the clean picture lies.
        group: pairs of one group are never parted by a split; empty stands for ``name``.
    """

    name: str
    degraded: Side
    clean: Side
    group: str = ""


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Something that is no pair, and why: a side is missing, a name occurs twice, a shard is broken."""

    name: str
    detail: str


class Read(NamedTuple):
    """The encoded files of a pair; an ``ItemError`` stands for a side that can't be read."""

    ref: PairRef
    degraded: bytes | ItemError
    clean: bytes | ItemError


def list_pairs(uri: str, form: Form, storage: StorageSettings) -> Iterator[PairRef | Unpaired]:
    """List pairs in a fixed order; pixels are not read, of a tar only headers. Shards are a stream, folders are held.

    Raises:
        StorageRefusedError, StorageOutageError: as the store says; no such folder, for one.
    """
    store = Store.open(uri, storage)
    store.check()
    if form == "pairs":
        yield from _in_folders(store)
    elif extension(uri) in ("tar", "parquet") and store.is_object():
        store, name = store.at(store.uri())
        yield from _in_shard(store, ObjectEntry(name, store.size(name) or 0, ""))
    else:
        for entry in store.walk():
            if extension(entry.path) in ("tar", "parquet"):
                yield from _in_shard(store, entry)


def read_pairs(store: Store, refs: Iterable[PairRef]) -> Iterator[Read]:
    """Read pairs in order. Neighbours in one Parquet shard are read in one pass, if their rows ascend."""
    for (kind, uri), run in groupby(refs, key=lambda ref: (ref.clean.kind, ref.clean.object)):
        if kind == "parquet":
            yield from _from_parquet(store, uri, list(run))
            continue
        for ref in run:
            yield Read(ref, _bytes(store, ref.degraded), _bytes(store, ref.clean))


def decode_upright(data: bytes, max_pixels_mp: float) -> np.ndarray:
    """Decode strictly, alpha left out, and apply the EXIF orientation, so that two sides show the same way up.

    Returns:
        HW (grey) or HW3 (RGB), uint8 or uint16.

    Raises:
        ItemError: as :func:`fdi_lib.storage.images.decode`.
    """
    pixels = decode(data, max_pixels_mp).pixels
    header = pyvips.Image.new_from_buffer(data, "", access="sequential")
    transposed, turns = _TURNS.get(header.get("orientation") if header.get_typeof("orientation") else 1, (False, 0))
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _in_folders(store: Store) -> Iterator[PairRef | Unpaired]:
    """Match two listings, which are held: sorted paths aren't sorted by what stands before their extensions."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in SIDES:
        for entry in store.walk(f"{name}/"):
            if is_image(entry.path):
                stem = normalize("NFC", posixpath.splitext(entry.path)[0].removeprefix(f"{name}/"))  # macOS writes NFD
                found.setdefault(stem, {side: [] for side in SIDES})[name].append(entry.path)
    for stem in sorted(found):
        paths = found[stem]
        wrong = _complaint({name: len(paths[name]) for name in SIDES})
        if wrong:
            yield Unpaired(stem, wrong)
        else:
            yield PairRef(stem, Side(store.uri(paths["degraded"][0])), Side(store.uri(paths["clean"][0])))


def _complaint(count: dict[str, int]) -> str:
    missing = [name for name in SIDES if not count[name]]
    if missing:
        return f"the {missing[0]} picture is missing"
    twice = [name for name in SIDES if count[name] > 1]
    return f"{count[twice[0]]} {twice[0]} pictures of this name" if twice else ""


def _in_shard(store: Store, entry: ObjectEntry) -> Iterator[PairRef | Unpaired]:
    reader = RangeReader(store, entry.path, entry.size, _LITTLE_AHEAD_BYTES)
    try:
        listed = _in_tar if extension(entry.path) == "tar" else _in_parquet
        yield from listed(store.uri(entry.path), entry.path, reader)
    except (ItemError, FileNotFoundError) as error:
        yield Unpaired(entry.path, str(error))


def _in_tar(uri: str, shard: str, reader: RangeReader) -> Iterator[PairRef | Unpaired]:
    waiting: dict[str, dict[str, list[Side]]] = {}
    problem: ItemError | None = None
    try:
        for member in tar_members(reader):
            if not is_image(member.name):
                continue
            stem, side = posixpath.splitext(posixpath.splitext(member.name)[0])
            name = side[1:].lower()
            if member.problem or name not in SIDES:
                why = str(member.problem) if member.problem else "neither NAME.degraded.EXT nor NAME.clean.EXT"
                yield Unpaired(f"{shard}/{member.name}", why)
                continue
            sides = waiting.setdefault(normalize("NFC", stem), {side: [] for side in SIDES})
            sides[name].append(Side(uri, "tar", member.offset, member.length))
    except ItemError as error:  # what was found before the break is good
        problem = error
    for stem, sides in waiting.items():
        wrong = _complaint({name: len(sides[name]) for name in SIDES})
        name = f"{shard}/{stem}"
        yield Unpaired(name, wrong) if wrong else PairRef(name, sides["degraded"][0], sides["clean"][0])
    if problem:
        raise problem


def _in_parquet(uri: str, shard: str, reader: RangeReader) -> Iterator[PairRef | Unpaired]:
    file = _open_parquet(reader)
    taken: set[str] = set()
    rows = _rows(file, ["name"]) if "name" in file.schema_arrow.names else ({},) * file.metadata.num_rows
    for number, row in enumerate(rows):
        name = f"{shard}/{row.get('name') or format(number, '08d')}"
        side = Side(uri, "parquet", row=number)
        twice = Unpaired(f"{name} (row {number})", "a pair of this name came before it")
        yield twice if name in taken else PairRef(name, side, side)
        taken.add(name)


def _open_parquet(reader: RangeReader) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(reader, buffer_size=READ_AHEAD_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise ItemError(Reason.UNREADABLE, f"not a whole Parquet file: {error}") from error
    if not set(SIDES) <= set(file.schema_arrow.names):
        raise ItemError(Reason.UNREADABLE, f"no columns {' and '.join(SIDES)} with the pictures' bytes")
    return file


def _rows(file: pq.ParquetFile, columns: list[str], groups: list[int] | None = None) -> Iterator[dict[str, Any]]:
    if groups == []:
        return
    try:
        for batch in file.iter_batches(_FEW_ROWS, row_groups=groups, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ItemError(Reason.UNREADABLE, f"not a whole Parquet file: {error}") from error


def _from_parquet(store: Store, uri: str, refs: list[PairRef]) -> Iterator[Read]:
    """Pass once over the row groups that hold the rows; only those are read."""
    done = 0
    try:
        here, name = store.at(uri)
        file = _open_parquet(RangeReader(here, name, here.size(name) or 0, _LITTLE_AHEAD_BYTES))
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            wanted = done < len(refs) and start <= refs[done].clean.row < end
            for number, row in enumerate(_rows(file, list(SIDES), [group] if wanted else []), start):
                if done < len(refs) and refs[done].clean.row == number:
                    yield Read(refs[done], *(_cell(row[side]) for side in SIDES))
                    done += 1
                if done == len(refs) or refs[done].clean.row >= end:
                    break
            start = end
        if 0 < done < len(refs):  # rows that descend: another pass
            yield from _from_parquet(store, uri, refs[done:])
        elif done < len(refs):
            raise ItemError(Reason.SOURCE_CHANGED, f"{uri} has fewer rows than it had")
    except (ItemError, FileNotFoundError) as error:
        wrong = error if isinstance(error, ItemError) else ItemError(Reason.MISSING_SOURCE, uri)
        yield from (Read(ref, wrong, wrong) for ref in refs[done:])


def _cell(value: Any) -> bytes | ItemError:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else ItemError(Reason.MISSING_SOURCE, "the row holds no bytes")


def _bytes(store: Store, side: Side) -> bytes | ItemError:
    place = {"object": side.object, "kind": side.kind, "offset": side.offset, "length": side.length}
    try:
        return read_image(store, place)
    except ItemError as error:
        return error
