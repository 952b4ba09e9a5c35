"""What a killed writer leaves lies in one folder, and goes; a live writer who loses his file ends with an outage."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fdi_lib.errors import RunConflictError, StorageOutageError, StorageRefusedError
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.storage.local import LocalStore
from fdi_lib.storage.run import refuse_strangers
from fdi_lib.storage.store import UNFINISHED, UNFINISHED_S, Store

# Writes a file, says so, and never comes to give it its name.
_WRITER = """
import os, sys, time
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.storage.store import Store
os.fsync = lambda handle: (print("written", flush=True), time.sleep(600))
Store.open(sys.argv[1], StorageSettings()).create("images/a.png", b"x" * 1000)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "out"), StorageSettings())


@pytest.fixture
def left(store: Store) -> Path:
    """What a writer left that was killed just now."""
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, store.uri()], stdout=subprocess.PIPE)
    assert writer.stdout and writer.stdout.readline() == b"written\n"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    (path,) = Path(store.uri(), UNFINISHED).iterdir()
    assert path.stat().st_size == 1000
    return path


def _age(path: Path, by_s: float) -> None:
    then = path.stat().st_mtime - by_s
    os.utime(path, (then, then))


def test_a_killed_writers_file_goes_once_nobody_can_be_writing_it(store: Store, left: Path) -> None:
    assert not store.exists("images/a.png")
    store.remove_unfinished()
    assert left.exists(), "its writer might be alive"
    assert store.create("images/a.png", b"whole") and left.exists()
    _age(left, UNFINISHED_S + 5)
    store.remove_unfinished()
    assert sorted(os.listdir(store.uri())) == ["images"] and os.listdir(store.uri("images")) == ["a.png"]
    store.remove_unfinished()
    assert os.listdir(store.uri()) == ["images"]


def test_an_output_in_which_the_first_writer_was_killed_is_still_free(store: Store, left: Path) -> None:
    assert [entry.path for entry in store.walk()] == [f"{UNFINISHED}{left.name}"]  # nothing is hidden
    refuse_strangers(store)


@pytest.mark.parametrize("write", ["create", "replace"])
def test_whoever_loses_the_file_being_written_ends_with_an_outage(
    store: Store, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    store.create("there", b"old")
    synced = os.fsync

    def slow(handle: int) -> None:
        synced(handle)
        for path in Path(store.uri(), UNFINISHED).glob("*"):
            path.unlink()

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(StorageOutageError, match="run again"):
        getattr(store, write)("there" if write == "replace" else "new", b"new")
    assert store.read("there") == b"old" and not store.exists("new")
    monkeypatch.undo()
    getattr(store, write)("new", b"new")
    assert store.read("new") == b"new" and sorted(os.listdir(store.uri())) == ["new", "there"]


def test_writers_who_take_the_folder_along_do_not_disturb_each_other(store: Store) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        for again in range(50):
            assert store.create(f"{number}/{again}", b"x")
            if again % 10 == 0:
                store.remove_unfinished()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(list(store.walk())) == 400 and sorted(os.listdir(store.uri())) == [str(n) for n in range(8)]


def test_a_folder_on_another_file_system_is_refused_with_a_remedy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    with pytest.raises(StorageRefusedError, match=r"Invalid cross-device link; .*another place"):
        store.create("images/a.png", b"")


def test_a_folder_on_another_file_system_is_written_to_all_the_same(tmp_path: Path) -> None:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "images").symlink_to(elsewhere)
        store = LocalStore(str(tmp_path))
        assert store.create("images/a", b"1") and not store.create("images/a", b"2")
        store.replace("images/b", b"3")
        assert {entry.path for entry in store.walk()} == {"images/a", "images/b"}


def test_what_is_no_file_among_the_unfinished_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".fdi-unfinished/sub").mkdir(parents=True)
    os.utime(tmp_path / ".fdi-unfinished/sub", (0, 0))
    LocalStore(str(tmp_path)).remove_unfinished()
    assert (tmp_path / ".fdi-unfinished/sub").is_dir()


def test_only_files_among_the_unfinished_are_no_strangers(tmp_path: Path) -> None:
    (tmp_path / "plan.parquet.mine").write_bytes(b"")
    with pytest.raises(RunConflictError, match=r"found plan\.parquet\.mine"):
        refuse_strangers(LocalStore(str(tmp_path)))
