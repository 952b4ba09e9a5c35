"""The shards that a run writes: where they lie, and how images, sidecars and what else a sample holds get in and out.

In a tar each is a member (``0001.tif``, ``0001.tif.json``, ``0001.txt``); in a Parquet file, images are rows. Does NOT
know the ledger, nor when a shard is complete.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.shards import RangeReader, tar_members
from fdi_lib.storage.sources import sample_key
from fdi_lib.storage.store import Store, extension

_SUFFIXES = {"webdataset": "tar", "parquet": "parquet"}
_MEMBER = pa.struct([("name", pa.string()), ("bytes", pa.binary())])
_FEATURES = {
    "key": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
    "provenance": {"dtype": "string", "_type": "Value"},
    "members": [{"name": {"dtype": "string", "_type": "Value"}, "bytes": {"dtype": "binary", "_type": "Value"}}],
}
# As ``fdi pack`` writes it, with the sidecar, and what else was in the sample (at its first image).
PARQUET = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("provenance", pa.string()),
        ("members", pa.list_(_MEMBER)),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
_ROW_GROUP_BYTES = 16 * 2**20
_FEW_ROWS = 8


class Piece(NamedTuple):
    """Something to be put into an output shard; its bytes are read when they are written."""

    name: str
    kind: Literal["image", "sidecar", "companion"]
    read: Callable[[], bytes]


def shard_path(source: Store, shard: str, layout: str) -> str:
    """Return the output's path of a source shard; another format replaces the extension, unless that name is taken."""
    stem, _, old = shard.rpartition(".")
    suffix = _SUFFIXES[layout]
    if old.lower() == suffix:
        return f"shards/{shard}"
    return f"shards/{shard}.{suffix}" if source.exists(f"{stem}.{suffix}") else f"shards/{stem}.{suffix}"


def read_shard(store: Store, path: str) -> Iterator[tuple[str, bytes]]:
    """Stream what an output shard holds, as (name, bytes): images, their sidecars (``<name>.json``), and companions.

    Raises:
        ItemError: ``UNREADABLE``, after what could be read.
    """
    reader = RangeReader(store, path, store.size(path) or 0)
    if extension(path) == "tar":
        for member in tar_members(reader):
            reader.seek(member.offset)
            yield member.name, reader.read(member.length)
        return
    try:
        for batch in pq.ParquetFile(reader).iter_batches(_FEW_ROWS, columns=PARQUET.names, use_threads=False):
            for row in batch.to_pylist():
                if row["image"] is not None:
                    yield row["key"], row["image"]["bytes"]
                    yield f"{row['key']}.json", row["provenance"].encode()
                yield from ((member["name"], member["bytes"]) for member in row["members"])
    except (pa.ArrowException, OSError) as error:
        raise ItemError(Reason.UNREADABLE, f"not a whole Parquet file: {error}") from error


def read_output(store: Store, uri: str) -> bytes | None:
    """Return the bytes that a row's ``output_uri`` names, a file's or a shard's member's; None if they aren't there."""
    place, path = store.at(uri)
    for suffix in (f".{known}#" for known in _SUFFIXES.values()):
        at = path.lower().find(suffix)
        if path.startswith("shards/") and at >= 0:
            shard, member = path[: at + len(suffix) - 1], path[at + len(suffix) :]
            with suppress(ItemError):
                return next((data for name, data in read_shard(place, shard) if name == member), None)
            return None
    try:
        return place.read(path)
    except FileNotFoundError:
        return None


def shard_bytes(pieces: list[Piece], layout: str) -> bytes:
    """Write pieces as a shard: the same bytes for the same pieces (Parquet: and the same version of pyarrow)."""
    if layout == "webdataset":
        return tar_bytes((piece.name, piece.read()) for piece in pieces)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, PARQUET, compression="none", use_dictionary=False, write_statistics=False) as writer:
        group: list[dict[str, Any]] = []
        held = 0
        for row in _table_rows(pieces):
            group.append(row)
            held += len(row["image"]["bytes"]) if row["image"] else 0
            if held >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, PARQUET))
                group, held = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, PARQUET))
    return sink.getvalue()


def _table_rows(pieces: list[Piece]) -> Iterator[dict[str, Any]]:
    """A row for each image, with the companions of its sample at the first; one for a sample without an image."""
    others: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        if piece.kind == "companion":
            others[sample_key(piece.name)].append(piece)
    sidecars = {piece.name: piece for piece in pieces if piece.kind == "sidecar"}
    with_image = {sample_key(piece.name) for piece in pieces if piece.kind == "image"}
    for piece in pieces:
        key = sample_key(piece.name)
        if piece.kind == "image":
            image = {"bytes": piece.read(), "path": piece.name}
            provenance = sidecars[f"{piece.name}.json"].read().decode()
            yield {"key": piece.name, "image": image, "provenance": provenance, "members": _read(others.pop(key, []))}
        elif key in others and key not in with_image:
            yield {"key": key, "image": None, "provenance": None, "members": _read(others.pop(key))}


def _read(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [{"name": piece.name, "bytes": piece.read()} for piece in pieces]
