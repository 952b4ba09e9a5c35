"""Where checkpoints and weights go."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
import pytest

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import StorageSettings
from jobs.training.storage import filesystem, local_folder, publish


def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files, path = filesystem(str(tmp_path), StorageSettings())
    assert isinstance(files, pafs.LocalFileSystem) and path == str(tmp_path)
    files, path = filesystem(
        "s3://bucket/runs/", StorageSettings(endpoint_url="http://127.0.0.1:9", region="eu-west-1")
    )
    assert isinstance(files, pafs.S3FileSystem) and path == "bucket/runs" and files.region == "eu-west-1"
    with pytest.raises(ManifestError, match="no store"):
        filesystem("gs://bucket/runs", StorageSettings())


def test_whoever_finds_the_last_file_finds_all(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x").write_bytes(b"1")
    publish(source, str(target), StorageSettings(), {"training.json": b"{}"})
    assert (target / "sub" / "x").read_bytes() == b"1" and (target / "training.json").read_bytes() == b"{}"
    (source / "sub" / "x").write_bytes(b"2")
    (source / "sub" / "y").mkdir()
    (target / "sub" / "y").mkdir()
    publish(source, str(target), StorageSettings(), {"training.json": b"{2}"})
    assert (target / "sub" / "x").read_bytes() == b"2" and (target / "training.json").read_bytes() == b"{2}"


def test_a_local_folder_is_one_on_this_machine(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path)) == local_folder(f"file://{tmp_path}") == tmp_path
    with pytest.raises(ManifestError, match="local folder only"):
        local_folder("s3://bucket/bank")
