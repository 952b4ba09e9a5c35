"""Parquet shards opened in a sandbox: what a job, unlike a test or a trainer, reads their rows with.

The first half runs in the caller's process, which alone has the store; the second in the child. Does NOT know which
rows are wanted, nor what an image is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from fdi_lib.errors import ItemError
from fdi_lib.storage import sandbox
from fdi_lib.storage.sandbox_child import Reply, allow_memory
from fdi_lib.storage.shards import RangeReader, Row, parquet_rows

# What reading a shard may take beyond what the process holds. Images are compressed already, so that pages don't grow
# much; a small shard may still have a page of some size, and Arrow's own buffers.
FILE_TIMES, BUFFERS_BYTES = 4, 2 * 2**30
_ROWS, _NAMES = 8, 1000  # rows sent at a time, with and without bytes
_AHEAD_BYTES = 64 * 2**10  # for the footer: Arrow reads ahead itself


def sandboxed_rows(reader: RangeReader, timeout_s: float, with_bytes: bool = True) -> Iterator[Row]:
    """As :func:`fdi_lib.storage.shards.parquet_rows`, of all rows.

    Args:
        reader: the shard.
        timeout_s: longest time for some rows, reading from the store left out.
        with_bytes: False for the names alone.

    Raises:
        ItemError: as that, and as :meth:`fdi_lib.storage.sandbox.Sandbox.call`, after the rows that came before.
    """
    settings = {"size": reader.size, "with_bytes": with_bytes}
    for told, (data,) in sandbox.stream(_rows, reader.fetch, timeout_s, **settings):
        start = 0
        for number, name, length in told["rows"]:
            yield Row(number, name, None if length is None else data[start : start + length].tobytes())
            start += length or 0


class _Asked:
    """The one object of a store that the parent reads from."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read

    def read(self, path: str, offset: int, length: int) -> bytes:
        return self._read(offset, length)


def _rows(read: Callable[[int, int], bytes], size: int, with_bytes: bool) -> Iterator[Reply]:
    allow_memory(FILE_TIMES * size + BUFFERS_BYTES)
    rows = parquet_rows(RangeReader(_Asked(read), "", size, _AHEAD_BYTES), with_bytes=with_bytes)  # type: ignore[arg-type]
    problem: list[ItemError] = []
    whole = _until_broken(rows, problem)
    while some := list(islice(whole, _ROWS if with_bytes else _NAMES)):
        facts: dict[str, Any] = {
            "rows": [(row.number, row.name, None if row.data is None else len(row.data)) for row in some]
        }
        yield facts, [np.frombuffer(b"".join(row.data or b"" for row in some), np.uint8)]
    if problem:
        raise problem[0]


def _until_broken(rows: Iterator[Row], problem: list[ItemError]) -> Iterator[Row]:
    """The rows up to an error, which is noted instead of raised."""
    try:
        yield from rows
    except ItemError as error:
        problem.append(error)
