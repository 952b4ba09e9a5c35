"""Names and bytes of the shards that a run writes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fdi_lib.errors import ItemError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.layouts import Piece, read_output, read_shard, shard_bytes, shard_path
from fdi_lib.storage.store import Store

PIECES = [
    Piece("b.txt", "companion", lambda: b"of b"),
    Piece("b.png", "image", lambda: b"picture"),
    Piece("b.png.json", "sidecar", lambda: b"{}"),
    Piece("alone.cls", "companion", lambda: b"7"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path), StorageSettings())


def test_a_changed_extension_meets_no_other_shard(store: Store) -> None:
    assert shard_path(store, "x/a.tar", "webdataset") == "shards/x/a.tar"
    assert shard_path(store, "x/a.tar", "parquet") == "shards/x/a.parquet"
    store.create("x/a.parquet", b"")
    assert shard_path(store, "x/a.tar", "parquet") == "shards/x/a.tar.parquet"


@pytest.mark.parametrize(("layout", "suffix"), [("webdataset", "tar"), ("parquet", "parquet")])
def test_what_goes_in_comes_out(store: Store, layout: str, suffix: str) -> None:
    path = f"shards/a#1.{suffix}"
    store.create(path, shard_bytes(PIECES, layout))
    assert dict(read_shard(store, path)) == {piece.name: piece.read() for piece in PIECES}
    assert shard_bytes(PIECES, layout) == store.read(path)
    assert read_output(store, f"{store.uri(path)}#b.png") == b"picture"
    assert read_output(store, f"{store.uri(path)}#c.png") is None


def test_a_table_row_is_an_image_with_all_of_its_sample(store: Store, tmp_path: Path) -> None:
    store.create("a.parquet", shard_bytes(PIECES, "parquet"))
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["key"] for row in rows] == ["b.png", "alone"]
    assert rows[0]["members"] == [{"name": "b.txt", "bytes": b"of b"}] and rows[0]["provenance"] == "{}"
    assert b'"members"' in pq.read_schema(tmp_path / "a.parquet").metadata[b"huggingface"]


def test_broken_shards(store: Store) -> None:
    store.create("a.tar", b"x" * 2000)
    store.create("a.parquet", b"PAR1")
    for path in ("a.tar", "a.parquet"):
        with pytest.raises(ItemError, match="unreadable"):
            list(read_shard(store, path))
