"""The command ``fdi pack``: what it refuses, and that it packs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdi_lib.errors import ManifestError, StorageRefusedError
from jobs.pack import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.png").write_bytes(b"1")
    return tmp_path / "in"


def test_packs(source: Path, tmp_path: Path) -> None:
    summary = main([str(source), str(tmp_path / "out"), "--format", "parquet", "--shard-mib", "1"])
    assert (summary["images"], summary["shards"]) == (1, 1)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["shard-000000.parquet"]


@pytest.mark.parametrize("dest", ["in", "in/x", ".", "link/x", "s3://k:secret@bucket/x"])
def test_refuses_places_that_can_not_work(source: Path, tmp_path: Path, dest: str) -> None:
    (tmp_path / "link").symlink_to(source, target_is_directory=True)
    with pytest.raises(ManifestError) as error:
        main([str(source), dest if "://" in dest else str(tmp_path / dest)])
    assert "secret" not in str(error.value)
    assert [p.name for p in source.iterdir()] == ["1.png"]


def test_refuses_what_is_not_there_or_out_of_range(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageRefusedError, match="no such"):
        main([str(tmp_path / "gone"), str(tmp_path / "out")])
    with pytest.raises(ManifestError, match="--shard-mib"):
        main([str(source), str(tmp_path / "out"), "--shard-mib", "0"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["empty", "in/1.png"])
def test_refuses_what_holds_no_image(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_bytes(b"x")
    with pytest.raises(ManifestError, match="holds no image") as error:
        main([str(tmp_path / name), str(tmp_path / "out")])
    assert error.value.value == str(tmp_path / name) and not list((tmp_path / "out").glob("*"))
