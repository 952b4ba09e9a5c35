"""An inventory: a CSV, JSON Lines or Parquet file that lists images by ``uri``, read as a stream.

Beside ``uri`` a row may give ``sha256`` (what the bytes must have), ``adapter`` (which one restores it, whatever it
looks like) and ``priority`` (a number, higher first). Does NOT know whether the images exist, nor which adapters
there are.
"""

from __future__ import annotations

import csv
import heapq
import io
import json
import math
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fdi_lib.errors import ManifestError
from fdi_lib.manifest.locations import CREDENTIALS_REMEDY, has_secret, local_path, redact, scheme
from fdi_lib.storage.shards import RangeReader
from fdi_lib.storage.store import UNKNOWN_SIZE, ObjectEntry, Store, extension, is_absolute, printable

_COLUMNS = ("uri", "sha256", "adapter", "priority")
_WINDOW = 65_536  # rows among which the highest priority goes first: an inventory is never held whole
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Listed(NamedTuple):
    """One row: its line (Parquet: its row, from 1), an absolute URI, and what else it says ("" or 0 for nothing)."""

    line: int
    uri: str
    sha256: str
    adapter: str
    priority: float


def inventory_entries(store: Store) -> Iterator[ObjectEntry]:
    """Stream the rows as absolute URIs of unknown size, higher ``priority`` first as far as a window of rows reaches.

    Rows of one priority keep their order. :func:`facts` tells what a row says beside its URI.

    Raises:
        ManifestError: as :func:`inventory_rows`.
    """
    waiting: list[tuple[float, int, Listed]] = []
    for number, row in enumerate(inventory_rows(store)):
        item = (-row.priority, number, row)
        if len(waiting) < _WINDOW:
            heapq.heappush(waiting, item)
        else:
            yield _entry(heapq.heappushpop(waiting, item)[2])
    while waiting:
        yield _entry(heapq.heappop(waiting)[2])


def facts(entry: ObjectEntry) -> Mapping[str, str]:
    """What the row of an inventory's entry says: ``sha256`` and ``adapter``, where given."""
    found: dict[str, str] = json.loads(entry.version) if entry.version else {}
    return found


def check_inventory(store: Store, adapters: Collection[str]) -> None:
    """Read the whole inventory once, before anything starts; hold nothing of it.

    Raises:
        ManifestError: as :func:`inventory_rows`, or a row names an adapter that isn't one of ``adapters``.
    """
    for row in inventory_rows(store):
        if row.adapter and row.adapter not in adapters:
            raise _wrong(
                store, row.line, "adapter", row.adapter, "no such adapter", f"use one of: {', '.join(sorted(adapters))}"
            )


def inventory_rows(store: Store) -> Iterator[Listed]:
    """Stream the rows of the inventory that ``store`` is rooted at, in order.

    A relative ``uri`` is relative to the inventory's folder. Columns that nobody knows are not looked at.

    Raises:
        ManifestError: not there, not CSV, JSON Lines or Parquet, or a row without ``uri``, with one that carries a
            credential, or with a ``sha256`` or ``priority`` that is none.
    """
    uri = store.uri()
    folder, name = store.at(uri)
    readers = {"csv": _csv_rows, "jsonl": _jsonl_rows, "ndjson": _jsonl_rows, "parquet": _parquet_rows}
    if extension(name) not in readers:
        raise ManifestError(
            "not an inventory",
            key="source.uri",
            value=uri,
            remedy="name a .csv, .jsonl or .parquet file with a column uri",
        )
    if not folder.exists(name):
        raise ManifestError("no such file", key="source.uri", value=uri, remedy="check the path")
    try:
        reader = RangeReader(folder, name, folder.size(name) or 0)
        for line, row in readers[extension(name)](reader):
            yield Listed(line, _uri(store, folder, line, row), *_facts(store, line, row))
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
        raise ManifestError(str(error), file=uri, remedy="write UTF-8 CSV, JSON Lines or Parquet") from error


def _entry(row: Listed) -> ObjectEntry:
    """What a row says is its version: another hash or adapter makes it another listing."""
    said = {key: value for key, value in (("sha256", row.sha256), ("adapter", row.adapter)) if value}
    return ObjectEntry(row.uri, UNKNOWN_SIZE, json.dumps(said, sort_keys=True) if said else "")


def _uri(store: Store, folder: Store, line: int, row: Mapping[str, Any]) -> str:
    found = row.get("uri")
    if not isinstance(found, str) or not found:
        raise _wrong(store, line, "uri", "", "has no uri", "every row of an inventory names an image")
    if scheme(found) and has_secret(found):  # it would end up in the ledger, in sidecars and in logs
        raise _wrong(store, line, "uri", redact(found), "this URI carries a credential", CREDENTIALS_REMEDY)
    if is_absolute(found):
        return local_path(found) or found
    found = folder.uri(found.removeprefix("./"))
    return posixpath.normpath(found) if folder.local_path else found


def _facts(store: Store, line: int, row: Mapping[str, Any]) -> tuple[str, str, float]:
    """``sha256``, ``adapter`` and ``priority`` of a row; null and "" say nothing."""
    sha256, adapter, priority = (row.get(key) if row.get(key) != "" else None for key in _COLUMNS[1:])
    digest = str(sha256 or "").strip().lower()
    if digest and not _SHA256.fullmatch(digest):
        raise _wrong(store, line, "sha256", str(sha256), "not a SHA-256", "write 64 hexadecimal digits, or nothing")
    try:
        rank = float(priority) if priority is not None and not isinstance(priority, bool) else 0.0
    except (TypeError, ValueError):
        rank = math.nan
    if math.isnan(rank):
        raise _wrong(store, line, "priority", str(priority), "not a number", "write a number, higher first, or nothing")
    return digest, str(adapter or "").strip(), rank


def _wrong(store: Store, line: int, key: str, value: str, problem: str, remedy: str) -> ManifestError:
    return ManifestError(problem, key=key, value=printable(value), file=store.uri(), line=line, remedy=remedy)


def _csv_rows(reader: RangeReader) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.DictReader(io.TextIOWrapper(io.BufferedReader(reader), encoding="utf-8-sig", newline=""))
    for row in rows:
        yield rows.line_num, row


def _jsonl_rows(reader: RangeReader) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = io.TextIOWrapper(io.BufferedReader(reader), encoding="utf-8-sig")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = json.loads(line)
            yield number, row if isinstance(row, dict) else {}


def _parquet_rows(reader: RangeReader) -> Iterator[tuple[int, Mapping[str, Any]]]:
    file = pq.ParquetFile(reader)
    batches = file.iter_batches(columns=[name for name in _COLUMNS if name in file.schema_arrow.names])
    yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
