"""Parquet shards that crash or hang their reader, as a fault inside Arrow would: in the sandbox's child only.

No such file is known, so ``HOOK``, a ``sitecustomize.py`` in a folder of ``PYTHONPATH``, stands for the fault.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from fdi_lib.storage.pack import parquet_bytes

BEFORE = 8  # rows that are read before it happens
HOOK = """
import sys
if "fdi_lib.storage.sandbox_child" in sys.orig_argv:
    import os, time
    import pyarrow.parquet as pq
    real = pq.ParquetFile.iter_batches
    def iter_batches(self, *arguments, **settings):
        does = (self.schema_arrow.metadata or {}).get(b"does")
        for batch in real(self, *arguments, **settings):
            yield batch
            if does == b"crash":
                os.abort()
            if does == b"hang":
                time.sleep(3600)
    pq.ParquetFile.iter_batches = iter_batches
"""


def deadly(does: str, images: Iterable[tuple[str, bytes]]) -> bytes:
    """A shard that does ``crash`` or ``hang`` behind its first rows."""
    table = pq.read_table(pa.BufferReader(parquet_bytes(images)))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"does": does}), sink)
    return sink.getvalue()
