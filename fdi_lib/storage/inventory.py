"""An inventory: a CSV, JSON Lines or Parquet file that lists images by ``uri``, read as a stream.

Does NOT know whether the images exist, nor check the hashes that it may list.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fdi_lib.errors import ManifestError
from fdi_lib.storage.shards import RangeReader
from fdi_lib.storage.store import UNKNOWN_SIZE, ObjectEntry, Store, extension, is_absolute


def inventory_entries(store: Store) -> Iterator[ObjectEntry]:
    """Stream the rows of the inventory that ``store`` is rooted at, as absolute URIs of unknown size.

    A relative ``uri`` is relative to the inventory's folder. Other columns are not looked at.

    Raises:
        ManifestError: not there, not CSV, JSON Lines or Parquet, or a row without ``uri``.
    """
    uri = store.uri()
    folder, name = store.at(uri)
    readers = {"csv": _csv_uris, "jsonl": _jsonl_uris, "ndjson": _jsonl_uris, "parquet": _parquet_uris}
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
        for number, found in enumerate(readers[extension(name)](reader), start=1):
            if not isinstance(found, str) or not found:
                raise ManifestError(
                    "has no uri", key="uri", file=uri, line=number, remedy="every row of an inventory names an image"
                )
            if not is_absolute(found):
                found = folder.uri(found.removeprefix("./"))
                found = posixpath.normpath(found) if folder.local_path else found
            yield ObjectEntry(found, UNKNOWN_SIZE, "")
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
        raise ManifestError(str(error), file=uri, remedy="write UTF-8 CSV, JSON Lines or Parquet") from error


def _csv_uris(reader: RangeReader) -> Iterator[Any]:
    text = io.TextIOWrapper(io.BufferedReader(reader), encoding="utf-8-sig", newline="")
    for row in csv.DictReader(text):
        yield row.get("uri")


def _jsonl_uris(reader: RangeReader) -> Iterator[Any]:
    for line in io.TextIOWrapper(io.BufferedReader(reader), encoding="utf-8-sig"):
        if line.strip():
            row = json.loads(line)
            yield row.get("uri") if isinstance(row, dict) else None


def _parquet_uris(reader: RangeReader) -> Iterator[Any]:
    for batch in pq.ParquetFile(reader).iter_batches(columns=["uri"]):
        yield from (row.get("uri") for row in batch.to_pylist())
