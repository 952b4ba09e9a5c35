"""Names are told apart by what the source holds, whatever was asked before."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdi_lib.manifest import SourceSettings
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.rivals import Rivals, shard_folder, without_extension
from fdi_lib.storage.store import Store


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_bytes([("1.png", b"1"), ("d/2.png", b"2"), ("d/2.jpg", b"3"), ("3.txt", b"4")]))


@pytest.mark.parametrize("path", ["a.tar", "x/a.tar", ".tar", "x.d/a", "x/.tar"])
def test_without_extension(path: str) -> None:
    assert without_extension(path) == path.replace("a.tar", "a")


@pytest.mark.parametrize(
    ("names", "form", "expected"),
    [
        (["x/a.tar"], "auto", "x/a"),
        (["x/a.tar", "x/ab/1.png", "x/a.png"], "auto", "x/a"),
        (["x/a.tar", "x/a/1.png"], "auto", "x/a.tar"),
        (["x/a.tar", "x/a/deep/1.png"], "auto", "x/a.tar"),
        (["x/a.tar", "x/a/notes.txt"], "auto", "x/a"),  # nothing that gets an output
        (["x/a.tar", "x/a/1.png"], "webdataset", "x/a"),
        (["x/a.tar", "x/a/b.tar"], "webdataset", "x/a.tar"),  # whose images lie in x/a/b/
        (["x/a.tar", "x/a.parquet"], "auto", "x/a.tar"),
        (["x/a.tar", "x/a.parquet"], "webdataset", "x/a"),
        (["x/a.tar", "x/a.TAR"], "webdataset", "x/a.tar"),
    ],
)
def test_a_shard_keeps_its_extension_beside_rivals(tmp_path: Path, names: list[str], form: str, expected: str) -> None:
    fill(tmp_path, names)
    source = SourceSettings.model_validate({"uri": str(tmp_path), "format": form})
    assert shard_folder(Store.open(source.uri, source.storage), source, "x/a.tar") == expected
    assert Rivals(source).folder("x/a.tar") == expected


@pytest.mark.parametrize("whole", [True, False])
def test_members(tmp_path: Path, whole: bool) -> None:
    fill(tmp_path, ["a.tar"])
    rivals = Rivals(SourceSettings(uri=str(tmp_path if whole else tmp_path / "a.tar")))
    asked = {"1.png": "1.tiff", "d/2.png": "d/2.tiff", "d/2.jpg": "d/2.tiff"}
    found = {
        own: rivals.member({"image_id": f"a.tar/{own}", "shard": "a.tar"}, name)
        for own, name in [*asked.items(), ("d/2.png", "d/2.png")]
    }
    assert found == {"1.png": "1.tiff", "d/2.png": "d/2.png", "d/2.jpg": "d/2.jpg.tiff"}
    assert rivals.member({"image_id": "a.tar/d/2.png", "shard": "a.tar"}, "d/2.tiff") == "d/2.png.tiff"
