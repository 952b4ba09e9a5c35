"""A Parquet shard that kills its reader costs what it had not given yet; others are read as without a sandbox."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fdi_lib.errors import ItemError
from fdi_lib.manifest import SourceSettings
from fdi_lib.storage import sandbox
from fdi_lib.storage.pack import parquet_bytes
from fdi_lib.storage.parquet import sandboxed_rows
from fdi_lib.storage.shards import RangeReader, parquet_rows
from fdi_lib.storage.sources import read_images
from fdi_lib.storage.store import ObjectEntry, Store
from tests.deadly import BEFORE, HOOK, deadly

IMAGES = [(f"{n:02d}.png", bytes([n]) * n * 999) for n in range(20)]


def read(folder: Path, data: bytes, timeout_s: float = 60) -> dict[str, bytes | ItemError]:
    (folder / "s.parquet").write_bytes(data)
    source = SourceSettings(uri=str(folder))
    store = Store.open(source.uri, source.storage)
    entry = ObjectEntry("s.parquet", len(data), "")
    return {row["image_id"]: found for row, found in read_images(store, source, entry, timeout_s=timeout_s)}


@pytest.mark.parametrize(("does", "reason"), [("crash", "decoder_died"), ("hang", "timeout")])
def test_a_shard_that_kills_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sandbox, "_idle", [])  # a child that has the hook
    found = read(tmp_path, deadly(does, IMAGES), timeout_s=5 if does == "hang" else 60)
    problem = found.pop("s.parquet")
    assert isinstance(problem, ItemError) and problem.reason == reason
    assert found == {f"s.parquet/{name}": data for name, data in IMAGES[:BEFORE]}
    assert read(tmp_path, parquet_bytes(IMAGES)) == {f"s.parquet/{name}": data for name, data in IMAGES}
    for child in sandbox._idle:
        child.close()


def test_a_page_that_inflates_beyond_all_measure(tmp_path: Path) -> None:
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 8, pa.int32()), pa.array([bytes(250 * 2**20)], pa.binary()))
    sink = io.BytesIO()
    pq.write_table(pa.table({"bytes": value}), sink, compression="zstd")
    assert len(sink.getvalue()) < 2**20
    (problem,) = read(tmp_path, sink.getvalue()).values()
    assert isinstance(problem, ItemError) and problem.reason in ("unreadable", "decoder_died")


@pytest.mark.parametrize("with_bytes", [True, False])
@pytest.mark.parametrize(
    "table",
    [
        pa.table({"bytes": [b"1", None, b"", b"22"], "name": ["n", None, "\n", "ü"]}),
        pa.table({"image": [{"bytes": b"x", "path": "p"}, None] * 1500}),
        pa.table({"image_bytes": pa.array([], pa.binary())}),
    ],
)
def test_rows_are_those_that_are_read_without_a_sandbox(tmp_path: Path, table: pa.Table, with_bytes: bool) -> None:
    pq.write_table(table, tmp_path / "s.parquet")
    store = Store.open(str(tmp_path), SourceSettings(uri=str(tmp_path)).storage)
    reader = RangeReader(store, "s.parquet", (tmp_path / "s.parquet").stat().st_size)
    plain = list(parquet_rows(reader, with_bytes=with_bytes))
    assert list(sandboxed_rows(reader, 60, with_bytes)) == plain and len(plain) == table.num_rows


def test_a_shard_that_went_away_is_missing(tmp_path: Path) -> None:
    source = SourceSettings(uri=str(tmp_path))
    ((_, problem),) = read_images(Store.open(source.uri, source.storage), source, ObjectEntry("s.parquet", 5000, ""))
    assert isinstance(problem, ItemError) and problem.reason == "missing_source"
