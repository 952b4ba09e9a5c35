"""What the source holds but nobody can read: it costs itself alone, and is never left out without a word."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fdi_lib.errors import ItemError
from fdi_lib.manifest import SourceSettings
from fdi_lib.storage.sources import list_objects, read_images
from fdi_lib.storage.store import ObjectEntry, Store


def test_a_file_that_may_not_be_read_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"secret")
    source = SourceSettings(uri=str(tmp_path))
    store = Store.open(source.uri, source.storage)

    def refused(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("fdi_lib.storage.local._regular_file", refused)
    ((row, problem),) = read_images(store, source, ObjectEntry("a.png", 6, ""))
    assert row["image_id"] == "a.png" and isinstance(problem, ItemError) and "Permission denied" in problem.detail


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
