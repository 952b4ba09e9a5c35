"""Put a source shard's results into one output shard, in the order of the source, and commit their rows.

Also carries over what is in a WebDataset shard beside its images. A shard's bytes follow from its source shard and its
rows alone, so that doing it again after any interruption gives the same. Does NOT know Ray, models, or when a shard's
turn has come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from fdi_lib.errors import ItemError, ObjectRefusedError, RunConflictError, StorageRefusedError
from fdi_lib.manifest import SourceSettings
from fdi_lib.records import LEDGER
from fdi_lib.storage.images import EXTENSIONS
from fdi_lib.storage.layouts import Piece, read_shard, shard_bytes, shard_path
from fdi_lib.storage.ledger import load_effective, write_part
from fdi_lib.storage.names import harmless, unique
from fdi_lib.storage.outputs import DELIVERED, staging_folders
from fdi_lib.storage.rivals import shard_folder
from fdi_lib.storage.sources import companions, path_below, read_images
from fdi_lib.storage.store import ObjectEntry, Store, check_name, extension, is_absolute

COMMITTED = ["image_id", "shard", "attempt", "status", "output_uri", "output_sha256"]  # what assembling asks of a row

Row = dict[str, Any]


class Carried(NamedTuple):
    """A member of a source shard that is not an image, under the name it gets in the output."""

    name: str
    offset: int
    read: Callable[[], bytes]


class Contents(NamedTuple):
    """What is in a source shard, in order: ids of its images with their offsets, and what else there is.

    ``folder`` is where, below ``images/``, its images and companions lie in the layout ``files``.
    """

    shard: str
    folder: str
    images: list[tuple[str, int]]
    companions: list[Carried]


def contents(store: Store, source: SourceSettings, entry: ObjectEntry) -> Contents:
    """List a source shard: headers alone of a tar. What can't be read has a failed row; the rest is listed.

    Args:
        store: rooted at ``source.uri``.
        source: where the entry comes from.
        entry: a tar or Parquet object as listed.
    """
    rows = [row for row, _ in read_images(store, source, entry, with_bytes=False)]
    shard = path_below(source, entry.path)
    if any(row["shard"] != shard for row in rows):  # gone, or with a name that no output could have
        return Contents(shard, shard, [], [])
    images = [(row["image_id"], row["offset"]) for row in rows]
    carried: list[Carried] = []
    if extension(shard) == "tar":
        here, path = store.at(entry.path) if is_absolute(entry.path) else (store, entry.path)
        taken = {name for image_id, _ in images for name in _possible_names(image_id.removeprefix(f"{shard}/"))}
        with suppress(ItemError, ObjectRefusedError):  # a cut or refused shard: its own row says so
            for found in companions(here, path, here.size(path) or 0):
                read = partial(here.read, path, found.offset, found.length)
                carried.append(Carried(unique(harmless(found.name), taken), found.offset, read))
    return Contents(shard, shard_folder(store, source, shard), images, carried)


def carry_over(output: Store, found: Contents) -> list[str]:
    """Create a shard's companions as files beside its images; return the paths where something else lies."""
    refused = []
    for companion in found.companions:
        path = companion_path(found.folder, companion.name)
        data = companion.read()
        if output.size(path) is None:
            output.create(path, data)
        if output.size(path) != len(data):
            refused.append(path)
    return refused


def companion_path(folder: str, name: str) -> str:
    """Where a companion lies in the layout ``files``; ``folder`` is its shard's."""
    return check_name(f"images/{folder}/{name}")


def assemble(output: Store, source: Store, found: Contents, layout: str, committed: pa.Table) -> bool:
    """Write a shard, then commit its rows, then clear what was staged for it; can be repeated after any interruption.

    A shard that is there already (images were added by a retry) is replaced by one that holds them as well; what it
    held stays as it is, byte for byte.

    Args:
        output: the run's output.
        source: rooted at ``source.uri``.
        found: what is in the source shard.
        layout: webdataset or parquet.
        committed: the shard's rows in the ledger, with the columns ``COMMITTED``.

    Returns:
        False if nothing was done, because there are images without a row: the source changed while it was read.

    Raises:
        RunConflictError: the shard that is there holds something else.
        StorageRefusedError: a staged image is missing or altered.
    """
    rows_folder, images_folder = staging_folders(found.shard)
    done = {row["image_id"]: row for row in committed.to_pylist()}
    staged = load_effective(output, folders=(rows_folder,)).to_pylist()
    new = {
        row["image_id"]: row for row in staged if row["attempt"] > done.get(row["image_id"], {"attempt": 0})["attempt"]
    }
    if any(image_id not in done and image_id not in new for image_id, _ in found.images):
        return False
    path = shard_path(source, found.shard, layout)
    if new or not output.exists(path):
        before = f"{output.uri(path)}#"
        kept = {
            i: row for i, row in done.items() if row["status"] in DELIVERED and row["output_uri"].startswith(before)
        }
        held = _content(output, path) if kept else {}
        images = {i: _held(row, row["output_uri"].removeprefix(before), held) for i, row in kept.items()}
        images |= {i: _staged(output, row, images_folder) for i, row in new.items()}
        pieces = list(_in_order(found, images))
        if pieces:
            _write(output, path, shard_bytes(pieces, layout), {piece.name for piece in pieces})
        _commit(output, [row | {"output_uri": before + images[i][0].name} for i, row in new.items()])
    for folder in (images_folder, rows_folder):  # in this order: a row without its image is recognised as committed
        for entry in list(output.walk(folder)):
            output.delete(entry.path)
    return True


def _in_order(found: Contents, images: dict[str, tuple[Piece, Piece]]) -> Iterator[Piece]:
    """Pieces in the order of the source; images that are no longer there come last, by name."""
    places: list[tuple[int, tuple[Piece, ...]]] = [(at, images[i]) for i, at in found.images if i in images]
    places += [(other.offset, (Piece(other.name, "companion", other.read),)) for other in found.companions]
    for _, pieces in sorted(places, key=lambda place: place[0]):  # stable: a table's rows stay in order
        yield from pieces
    for image_id in sorted(images.keys() - dict(found.images).keys()):
        yield from images[image_id]


def _staged(output: Store, row: Row, folder: str) -> tuple[Piece, Piece]:
    path = output.at(row["output_uri"])[1]
    name = path.removeprefix(folder)

    def read(path: str, sha256: str | None) -> bytes:
        with suppress(FileNotFoundError):
            data = output.read(path)
            if sha256 in (None, hashlib.sha256(data).hexdigest()):
                return data
        remedy = f"delete {output.uri(staging_folders(row['shard'])[0])} and run again: its images are then done again"
        raise StorageRefusedError(f"{output.uri(path)} is gone, or not as it was written; {remedy}")

    image = Piece(name, "image", partial(read, path, row["output_sha256"]))
    return image, Piece(f"{name}.json", "sidecar", partial(read, f"{path}.json", None))


def _held(row: Row, name: str, held: dict[str, bytes]) -> tuple[Piece, Piece]:
    if hashlib.sha256(held.get(name, b"")).hexdigest() != row["output_sha256"] or f"{name}.json" not in held:
        raise RunConflictError(f"{row['output_uri']} is not as the ledger says; see `fdi verify`")
    return Piece(name, "image", lambda: held[name]), Piece(f"{name}.json", "sidecar", lambda: held[f"{name}.json"])


def _write(output: Store, path: str, data: bytes, names: set[str]) -> None:
    if output.create(path, data) or output.read(path) == data:
        return
    strange = sorted(_content(output, path).keys() - names)
    if strange:
        raise RunConflictError(f"{output.uri(path)} holds {strange[0]}, which is not of this shard")
    output.replace(path, data)


def _content(output: Store, path: str) -> dict[str, bytes]:
    try:
        return dict(read_shard(output, path))
    except ItemError as error:
        raise RunConflictError(f"{output.uri(path)} can't be read any more ({error}); see `fdi verify`") from error


def _commit(output: Store, rows: list[Row]) -> None:
    for attempt in sorted({row["attempt"] for row in rows}):
        write_part(output, pa.Table.from_pylist([r for r in rows if r["attempt"] == attempt], schema=LEDGER), attempt)


def _possible_names(name: str) -> list[str]:
    """What an image's results may be called, whatever becomes of it: companions keep out of their way."""
    stem = name.rpartition(".")[0]
    images = [name, *(f"{before}{suffix}" for before in (stem, name) for suffix in EXTENSIONS.values())]
    return [*images, *(f"{image}.json" for image in images)]
