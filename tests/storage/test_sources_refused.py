"""A source file that the system refuses costs itself alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdi_lib.errors import ItemError
from fdi_lib.manifest import SourceSettings
from fdi_lib.storage.sources import read_images
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
