"""What failed or waits, and why; names can't steer the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import StorageSettings
from jobs import failed
from tests.jobs.finished_run import EVIL, Archive, finished_run


def test_rows(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    found = failed.run(output, StorageSettings())
    assert [row["image_id"] for row in found["rows"]] == ["b/6.jpg", f"b/{EVIL}"]
    assert (found["failed"], found["review"]) == (1, 1)
    assert "empty_file" in failed.text(found)
    assert [r["reason"] for r in failed.run(output, StorageSettings(), "unknown")["rows"]] == ["unknown"]
    assert "nothing failed" in failed.text(failed.run(output, StorageSettings(), "gate"))


def test_unknown_reason(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such reason; use one of: unsupported_pixels"):
        failed.run(str(tmp_path), StorageSettings(), "tired")


def test_names_are_written_out(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add("a.jpg", b"", "failed", reason="empty_file", image_id="\x1b[2J\u202egpj.exe")
    text = failed.text(failed.run(archive.finish(), StorageSettings()))
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2J\\u202egpj.exe" in text
