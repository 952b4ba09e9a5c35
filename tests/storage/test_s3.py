"""The S3 store against a real server."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from fdi_lib.errors import ItemError, StorageRefusedError
from fdi_lib.manifest.settings import SourceSettings, StorageSettings
from fdi_lib.records import LEDGER
from fdi_lib.storage import ledger
from fdi_lib.storage.pack import parquet_bytes, tar_bytes
from fdi_lib.storage.sources import list_objects, read_image, read_images
from fdi_lib.storage.store import Store

HERE = StorageSettings()


@pytest.fixture
def store(s3_bucket: str) -> Store:
    return Store.open(f"{s3_bucket}/some/prefix/", HERE)


@pytest.mark.s3
def test_reads_what_it_created(store: Store, s3_bucket: str) -> None:
    assert store.create("a/b.bin", b"0123456789")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read("a/b.bin", 3, 4) == b"3456"
    assert store.read("a/b.bin", 8, 100) == b"89"
    assert store.read("a/b.bin", 8) == b"89"
    assert store.read("a/b.bin", 10, 5) == b""
    assert store.read("a/b.bin", 2, 0) == b""
    assert store.size("a/b.bin") == 10
    assert store.uri("a/b.bin") == f"{s3_bucket}/some/prefix/a/b.bin"
    assert store.create("empty", b"")
    assert store.read("empty") == b""


@pytest.mark.s3
def test_what_is_not_there(store: Store) -> None:
    assert store.size("nothing") is None
    assert not store.exists("nothing")
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    assert list(store.walk()) == []
    store.delete("nothing")


@pytest.mark.s3
def test_creates_once_replaces_and_deletes(store: Store) -> None:
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"
    store.replace("a", b"third")
    assert store.read("a") == b"third"
    store.delete("a")
    assert store.create("a", b"again")


@pytest.mark.s3
def test_one_of_eight_racing_creators_wins(store: Store) -> None:
    barrier = threading.Barrier(8)
    stores = [pickle.loads(pickle.dumps(store)) for _ in range(8)]

    def create(number: int) -> bool:
        barrier.wait()
        return stores[number].create("race", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert sum(won) == 1
    assert store.read("race") == str(won.index(True)).encode()


@pytest.mark.s3
def test_walk_streams_over_pages_in_order(store: Store) -> None:
    names = sorted(f"d{n % 3}/{n:04d}.bin" for n in range(1005))  # S3 pages hold 1000
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda name: store.create(name, b"x"), names))
    found = list(store.walk())
    assert [entry.path for entry in found] == names
    assert all(entry.size == 1 and entry.version for entry in found)
    assert [entry.path for entry in store.walk("d1/")] == [name for name in names if name.startswith("d1/")]


@pytest.mark.s3
def test_walk_versions_follow_the_bytes_and_markers_are_left_out(store: Store, s3_bucket: str) -> None:
    store.create("a é&+%20.bin", b"1")
    Store.open(s3_bucket, HERE)._call("put_object", "", Key="some/prefix/folder/", Body=b"")
    before = list(store.walk())
    assert [entry.path for entry in before] == ["a é&+%20.bin"]
    store.replace("a é&+%20.bin", b"2")
    assert [entry.version for entry in store.walk()] != [entry.version for entry in before]


@pytest.mark.s3
def test_a_neighbour_with_the_same_beginning_is_not_listed(store: Store, s3_bucket: str) -> None:
    Store.open(f"{s3_bucket}/some/prefix-2", HERE).create("x", b"")
    assert list(store.walk()) == []
    with pytest.raises(StorageRefusedError, match="nothing lies there"):
        store.check()


@pytest.mark.s3
def test_check_and_object_roots(store: Store, s3_bucket: str) -> None:
    store.check(for_writing=True)
    store.create("one.tar", b"tar")
    store.check()
    shard = Store.open(store.uri("one.tar"), HERE)
    shard.check()
    assert shard.is_object()
    assert not store.is_object()
    folder, name = shard.at(store.uri("one.tar"))
    assert folder.read(name) == b"tar"
    assert store.at(store.uri("a/b")) == (store, "a/b")
    with pytest.raises(StorageRefusedError):
        store.at("/local/file")


@pytest.mark.s3
@pytest.mark.parametrize("key", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    store.create("a", b"")
    monkeypatch.setenv(key, "wrong")
    other = pickle.loads(pickle.dumps(store))
    for attempt in (other.check, lambda: other.read("a"), lambda: other.create("b", b""), lambda: other.size("a")):
        with pytest.raises(StorageRefusedError, match=store.uri()):
            attempt()


@pytest.mark.s3
def test_no_credentials_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageRefusedError, match="credentials"):
        store.check()


@pytest.mark.s3
def test_no_such_bucket_is_refused(s3_bucket: str) -> None:
    store = Store.open("s3://there-is-no-such-bucket/x", HERE)
    for attempt in (store.check, lambda: store.read("a"), lambda: store.create("b", b""), lambda: list(store.walk())):
        with pytest.raises(StorageRefusedError, match=r"there-is-no-such-bucket.*check the bucket's name"):
            attempt()


@pytest.mark.s3
def test_sources_on_s3(store: Store) -> None:
    store.create("boxes/a.tar", tar_bytes([("1.jpg", b"one"), ("1.txt", b""), ("2.tif", b"two" * 5000)]))
    store.create("b.parquet", parquet_bytes([("r.png", b"row")]))
    store.create("x/3.PNG", b"three")
    store.create("list.csv", f"uri\nx/3.PNG\n{store.uri('x/3.PNG')}\ngone.png\na//b.png\n".encode())

    def read_all(source: SourceSettings) -> dict[str, object]:
        root = Store.open(source.uri, source.storage)
        found: dict[str, object] = {}
        for block in list_objects(source, 2):
            for entry in block:
                for row, data in read_images(root, source, entry):
                    found[row["image_id"]] = getattr(data, "reason", data)
                    assert isinstance(data, ItemError) or read_image(root, row) == data
        return found

    everything = {
        "b.parquet/r.png": b"row",
        "boxes/a.tar/1.jpg": b"one",
        "boxes/a.tar/2.tif": b"two" * 5000,
        "x/3.PNG": b"three",
    }
    assert read_all(SourceSettings(uri=store.uri())) == everything
    assert read_all(SourceSettings(uri=store.uri("boxes/a.tar"))) == {
        "a.tar/1.jpg": b"one",
        "a.tar/2.tif": b"two" * 5000,
    }
    listed = read_all(SourceSettings(uri=store.uri("list.csv"), format="inventory"))
    assert listed.pop("x/3.PNG") == b"three"
    assert sorted(map(str, listed.values())) == ["missing_source", "unsafe_name"]


@pytest.mark.s3
def test_a_key_with_hostile_segments_is_a_row(store: Store, s3_bucket: str) -> None:
    root = Store.open(s3_bucket, HERE)
    for key in ("some/prefix/../a.png", "some/prefix/a//b.png"):
        root._call("put_object", "", Key=key, Body=b"x")
    source = SourceSettings(uri=store.uri())
    found = [row for block in list_objects(source, 9) for entry in block for row in read_images(store, source, entry)]
    assert [data.reason for _, data in found if isinstance(data, ItemError)] == ["unsafe_name", "unsafe_name"]


@pytest.mark.s3
def test_ledger_on_s3(store: Store) -> None:
    rows = pa.Table.from_pylist([{"image_id": name, "status": "clean", "attempt": 1} for name in "ab"], schema=LEDGER)
    assert ledger.write_part(store, rows, 1)
    assert ledger.write_part(store, rows, 1) is None
    assert ledger.counts(store)["clean"] == 2
    assert ledger.is_done(ledger.done_index(store), ["a", "b", "c"]).tolist() == [True, True, False]
