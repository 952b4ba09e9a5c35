"""Local stores, and the rules for names that hold for every store."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdi_lib.errors import ItemError, StorageOutageError, StorageRefusedError
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.storage.local import LocalStore
from fdi_lib.storage.store import NO_FILE, ObjectEntry, Store, check_name, extension, printable

HERE = StorageSettings()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "root"), HERE)


def test_reads_what_it_created(store: Store, tmp_path: Path) -> None:
    assert store.create("a/b.bin", b"0123456789")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read("a/b.bin", 3, 4) == b"3456"
    assert store.read("a/b.bin", 8, 100) == b"89"
    assert store.read("a/b.bin", 10, 5) == b""
    assert store.size("a/b.bin") == 10
    assert store.exists("a/b.bin")
    assert store.uri("a/b.bin") == str(tmp_path / "root" / "a" / "b.bin")
    assert store.local_path == str(tmp_path / "root")


def test_what_is_not_there(store: Store) -> None:
    assert list(store.walk()) == []
    assert store.size("a") is None
    store.delete("a")
    store.create("a/b", b"")
    assert store.size("a") is None
    for path in ("b", "a", "a/b/c"):
        with pytest.raises(FileNotFoundError):
            store.read(path)


def test_creates_once_replaces_and_deletes(store: Store, tmp_path: Path) -> None:
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"
    store.replace("a", b"third")
    assert store.read("a") == b"third"
    store.delete("a")
    assert store.create("a", b"again")
    assert os.listdir(tmp_path / "root") == ["a"]  # nothing unfinished is left


def test_new_files_follow_the_umask(store: Store, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store.create("a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "root" / "a").stat().st_mode & 0o777 == 0o640


def test_one_of_eight_racing_creators_wins(store: Store) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return pickle.loads(pickle.dumps(store)).create("deep/er/race", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert sum(won) == 1
    assert store.read("deep/er/race") == str(won.index(True)).encode()


def test_a_file_where_a_folder_should_be_is_a_conflict(store: Store) -> None:
    store.create("a", b"")
    store.create("b/c", b"")
    for path in ("a/x", "a/x/y", "b"):
        with pytest.raises(ItemError, match="output_conflict"):
            store.create(path, b"")


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\0b", "a\\b", "a\nb", "a\udce9", "x" * 256, "é" * 128],
)
def test_hostile_names_are_refused(store: Store, name: str) -> None:
    for attempt in (
        store.read,
        store.size,
        store.delete,
        lambda n: store.create(n, b""),
        lambda n: store.replace(n, b""),
    ):
        with pytest.raises(ItemError, match="unsafe_name"):
            attempt(name)


@given(st.text(max_size=40))
def test_names_that_pass_stay_below_the_root(name: str) -> None:
    try:
        check_name(name)
    except ItemError:
        return
    assert os.path.normpath(f"/root/{name}") == f"/root/{name}"
    assert name.encode()


def test_walk_is_sorted_by_whole_path_and_complete(store: Store) -> None:
    names = ["a.txt", "a/1.png", "a/b/2.png", "a-b/3.png", "b", "Z", "é/x", "a0"]
    for name in names:
        store.create(name, name.encode())
    found = list(store.walk())
    assert [entry.path for entry in found] == sorted(names)
    assert [entry.size for entry in found] == [len(name.encode()) for name in sorted(names)]
    assert [entry.path for entry in store.walk("a/")] == ["a/1.png", "a/b/2.png"]
    assert [entry.path for entry in store.walk("a")] == sorted(name for name in names if name.startswith("a"))


def test_walk_streams(store: Store, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        store.create(f"{folder}/1", b"")
    walk = store.walk()
    assert next(walk).path == "a/1"
    store.create("b/2", b"")  # not looked at yet
    assert [entry.path for entry in walk] == ["b/1", "b/2"]


def test_walk_follows_links_but_not_in_circles(store: Store, tmp_path: Path) -> None:
    store.create("real/1", b"1")
    (tmp_path / "root/circle").symlink_to(tmp_path / "root", target_is_directory=True)
    (tmp_path / "root/link").symlink_to(tmp_path / "root/real", target_is_directory=True)
    (tmp_path / "root/nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "root/pipe")
    paths = {entry.path for entry in store.walk()}
    assert {"real/1", "link/1", "nowhere"} <= paths
    assert not any(path.startswith("circle/circle/circle") for path in paths)


def test_version_changes_with_the_bytes(store: Store) -> None:
    store.create("a", b"1")
    before = next(store.walk())
    store.replace("a", b"22")
    assert next(store.walk()).version != before.version


def test_names_that_are_not_unicode_are_shown_not_hidden(store: Store, tmp_path: Path) -> None:
    store.create("a", b"")
    with open(os.fsencode(tmp_path / "root") + b"/caf\xe9.png", "wb"):
        pass
    assert [entry.path for entry in store.walk()] == ["a", "caf\\xe9.png"]
    assert printable("caf\udce9.png") == "caf\\xe9.png"
    assert extension("x/A.B/caf\\xe9.PNG") == "png"


def test_check(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageRefusedError, match="no such file or folder"):
        store.check()
    store.check(for_writing=True)
    store.create("a", b"")
    store.check()
    assert store.at(store.uri("b/c")) == (store, "b/c")
    below = LocalStore(store.uri("a"))
    assert below.is_object()
    assert not store.is_object()
    with pytest.raises(StorageRefusedError, match="is a file"):
        LocalStore(store.uri("a/b")).check(for_writing=True)
    other, name = store.at(str(tmp_path / "elsewhere.png"))
    assert other.uri(name) == str(tmp_path / "elsewhere.png")
    with pytest.raises(StorageRefusedError):
        store.at("s3://bucket/key")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "/tmp/" + "x" * 300])
def test_a_place_that_cannot_be_made_is_refused(place: str) -> None:
    with pytest.raises(StorageRefusedError, match="another place"):
        LocalStore(place).check(for_writing=True)


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    LocalStore(str(tmp_path / "a/b")).check(for_writing=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_no_permission_is_refused(store: Store, tmp_path: Path) -> None:
    store.create("a", b"")
    (tmp_path / "root").chmod(0o500)
    with pytest.raises(StorageRefusedError):
        store.create("b", b"")
    with pytest.raises(StorageRefusedError):
        store.check(for_writing=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_outage(tmp_path: Path) -> None:
    from fdi_lib.storage.local import _translated

    with pytest.raises(StorageOutageError, match="No space left"), _translated("x"), open("/dev/full", "wb", 0) as file:
        file.write(b"x")


def test_schemes() -> None:
    assert Store.open("file:///a%20b/c", HERE).uri("d") == "/a b/c/d"
    with pytest.raises(StorageRefusedError, match="gs://"):
        Store.open("gs://bucket/x", HERE)


def test_a_pipe_is_no_file_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "y.png")
    store = Store.open(str(tmp_path), StorageSettings())
    with pytest.raises(FileNotFoundError):
        store.read("y.png")
    assert list(store.walk()) == [ObjectEntry("y.png", 0, NO_FILE)]
    with pytest.raises(StorageRefusedError, match="neither a file nor a folder"):
        LocalStore(str(tmp_path / "y.png")).check()
