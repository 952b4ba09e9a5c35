"""What the source holds but nobody can read: it costs itself alone, and is never left out without a word."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from fdi_lib.errors import ItemError, ObjectRefusedError, StorageOutageError, StorageRefusedError
from fdi_lib.manifest import SourceSettings
from fdi_lib.records import Reason
from fdi_lib.storage import local
from fdi_lib.storage.sources import list_objects, read_image, read_images
from fdi_lib.storage.store import ObjectEntry, Store


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceSettings:
    """A folder in which ``a.png`` may not be read, whoever asks (root may read everything)."""
    (tmp_path / "a.png").write_bytes(b"secret")
    (tmp_path / "b.png").write_bytes(b"2")
    opened = local._regular_file

    def refused(path: str, flags: int) -> int:
        if path.endswith("a.png"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags)

    monkeypatch.setattr(local, "_regular_file", refused)
    return SourceSettings(uri=str(tmp_path))


def test_a_file_that_may_not_be_read_is_a_row(locked: SourceSettings) -> None:
    store = Store.open(locked.uri, locked.storage)
    (entries,) = list_objects(locked, 10)
    (row, problem), (_, data) = (read for entry in entries for read in read_images(store, locked, entry))
    assert row["image_id"] == "a.png" and data == b"2"
    assert isinstance(problem, ItemError) and problem.reason == Reason.ACCESS_DENIED
    assert "a.png: Permission denied; make it readable" in problem.detail and "fdi retry" in problem.detail
    with pytest.raises(ItemError, match="access_denied"):  # rights that went after it was looked at
        read_image(store, row)


def test_a_folder_that_may_not_be_read_any_more_stops_the_job(
    locked: SourceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(locked.uri, locked.storage)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StorageRefusedError) as caught:
        list(read_images(store, locked, ObjectEntry("a.png", 6, "")))
    assert not isinstance(caught.value, ObjectRefusedError)


def test_a_file_on_bad_sectors_is_a_row(locked: SourceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = local._regular_file

    def broken(path: str, flags: int) -> int:
        if path.endswith("b.png"):
            raise OSError(errno.EIO, "Input/output error", path)
        return opened(path, flags)

    monkeypatch.setattr(local, "_regular_file", broken)
    store = Store.open(locked.uri, locked.storage)
    ((_, problem),) = read_images(store, locked, ObjectEntry("b.png", 1, ""))
    assert isinstance(problem, ItemError) and problem.reason == Reason.READ_ERROR
    assert "b.png: Input/output error; copy it from a backup" in problem.detail and "fdi retry" in problem.detail
    monkeypatch.setattr(os, "access", lambda *_: False)  # the whole disk is gone: no image's fault
    with pytest.raises(StorageOutageError):
        list(read_images(store, locked, ObjectEntry("b.png", 1, "")))


def test_pipes_sockets_and_devices_are_counted_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "a.png").write_bytes(b"1")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "box/pipe.tar")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.tif")
        listing = list_objects(SourceSettings(uri=str(tmp_path)), 10)
        assert [[entry.path for entry in block] for block in listing] == [["a.png"]]
    assert listing.ignored == {"(no regular file)": 4}
