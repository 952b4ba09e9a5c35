"""Shards are the same bytes for the same files, and lose none of them."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fdi_lib.errors import RunConflictError
from fdi_lib.manifest.settings import SourceSettings, StorageSettings
from fdi_lib.storage.pack import Format, pack
from fdi_lib.storage.sources import list_objects, read_images
from fdi_lib.storage.store import Store

LONG = "folder/" + "é" * 90 + "/" + "n" * 120 + ".png"
FILES = {
    "b/2.jpg": b"two" * 400,
    "b/2.json": b"{}",
    "a.tif": b"one" * 300,
    "c/3.png": b"",
    "c/lonely.txt": b"?",
    "c/4.JPEG": b"four" * 700,
    LONG: b"long",
}
IMAGES = {name: data for name, data in FILES.items() if not name.endswith((".json", ".txt"))}


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "source"), StorageSettings())
    for name, data in FILES.items():
        store.create(name, data)
    return store


def _open(path: Path) -> Store:
    return Store.open(str(path), StorageSettings())


def _images(path: Path) -> dict[str, Any]:
    settings = SourceSettings(uri=str(path))
    return {
        row["image_id"].split("/", 1)[1]: data
        for block in list_objects(settings, 10)
        for entry in block
        for row, data in read_images(_open(path), settings, entry)
    }


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_everything_comes_back_and_twice_gives_equal_bytes(source: Store, tmp_path: Path, form: Format) -> None:
    summary = pack(source, _open(tmp_path / "one"), form, 2000)
    assert summary["images"] == len(IMAGES)
    assert summary["companions"] == (1 if form == "webdataset" else 0)
    assert summary["ignored"] == ({"txt": 1} if form == "webdataset" else {"txt": 1, "json": 1})
    assert summary["shards"] == 4
    assert _images(tmp_path / "one") == IMAGES
    for name in FILES:
        (tmp_path / "source" / name).touch()
    pack(source, _open(tmp_path / "two"), form, 2000)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert sum(map(len, one.values())) == summary["bytes"]


def test_tar_headers_hold_nothing_of_this_machine(source: Store, tmp_path: Path) -> None:
    pack(source, _open(tmp_path / "out"), "webdataset", 2**20)
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(set(FILES) - {"c/lonely.txt"})
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_a_sample_is_not_parted(source: Store, tmp_path: Path) -> None:
    pack(source, _open(tmp_path / "out"), "webdataset", 1)
    shards = []
    for path in sorted((tmp_path / "out").iterdir()):
        with tarfile.open(path) as tar:
            shards.append(tar.getnames())
    assert ["b/2.jpg", "b/2.json"] in shards
    assert len(shards) == len(IMAGES)


def test_hugging_face_reads_it_as_images(source: Store, tmp_path: Path) -> None:
    pack(source, _open(tmp_path / "out"), "parquet", 2**20)
    schema = pq.read_schema(tmp_path / "out/shard-000000.parquet")
    assert b'"_type": "Image"' in schema.metadata[b"huggingface"]


def test_again_finishes_what_is_missing_and_never_overwrites(source: Store, tmp_path: Path) -> None:
    dest = _open(tmp_path / "out")
    first = pack(source, dest, "webdataset", 2000)
    dest.delete("shard-000001.tar")
    assert pack(source, dest, "webdataset", 2000) == first
    source.replace("a.tif", b"other")
    with pytest.raises(RunConflictError, match=r"shard-000000\.tar"):
        pack(source, dest, "webdataset", 2000)


def test_what_no_shard_can_hold_is_counted(source: Store, tmp_path: Path) -> None:
    (tmp_path / "source" / "back\\slash.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "source" / "pipe.png")
    ignored = pack(source, _open(tmp_path / "out"), "webdataset", 2000)["ignored"]
    assert ignored == {"(unsafe name)": 1, "(no regular file)": 1, "txt": 1}
