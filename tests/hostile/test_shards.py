"""Each hostile shard is listed as far as it goes, and one row stands for the rest; quickly, and without much memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.errors import ItemError
from fdi_lib.manifest import SourceSettings, StorageSettings
from fdi_lib.records import Reason
from fdi_lib.storage.sources import read_images
from fdi_lib.storage.store import ObjectEntry, Store
from tests.hostile.readers import exercise
from tests.hostile.shards import Shard, shards

MOST_SECONDS = 20.0  # whatever a header claims; the slowest takes a tenth of one, on a machine that does nothing else
# What Python may hold of a shard when its headers or names alone are read: the largest headers that are believed, some
# times over. (What Arrow holds for a file's pages is not seen here.)
MOST_MIB = 16.0


def read(folder: Path, shard: Shard, with_bytes: bool) -> Iterator[tuple[dict[str, Any], bytes | ItemError]]:
    store, source = Store.open(str(folder), StorageSettings()), SourceSettings(uri=str(folder))
    return read_images(store, source, ObjectEntry(shard.path, len(shard.data), ""), with_bytes)


@pytest.mark.parametrize("shard", shards(), ids=lambda shard: shard.path)
def test_hostile_shard(shard: Shard, tmp_path: Path) -> None:
    path = tmp_path / shard.path
    path.parent.mkdir()
    path.write_bytes(shard.data)
    started = time.perf_counter()
    found, unsafe = {}, 0
    for row, data in read(tmp_path, shard, with_bytes=True):
        outcome = str(data.reason) if isinstance(data, ItemError) else exercise(data)
        assert row["image_id"] not in found, "one id for two images"
        found[row["image_id"]] = outcome
        unsafe += outcome == Reason.UNSAFE_NAME
    certain = {image_id: outcome for image_id, outcome in found.items() if outcome != Reason.UNSAFE_NAME}
    assert certain.keys() == shard.images.keys() and unsafe == shard.unsafe
    assert not {image_id: outcome for image_id, outcome in certain.items() if outcome not in shard.images[image_id]}
    tracemalloc.start()
    try:
        listed = [row["image_id"] for row, _ in read(tmp_path, shard, with_bytes=False)]
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert set(listed) >= certain.keys() - {shard.path}
    assert peak < MOST_MIB
    assert time.perf_counter() - started < MOST_SECONDS
