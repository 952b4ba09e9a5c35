"""The demo's archive: what is in it, that it is the same every time, and that its truth lies outside."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import pyvips

from jobs.demo_archive import MIXTURES, SINGLES, Amounts, Truth, make_archive

FEW = Amounts(single=1, mixture=1, clean=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    root = tmp_path_factory.mktemp("demo")
    return root, make_archive(root, FEW)


def members(root: Path) -> dict[str, bytes]:
    found = {}
    for shard in sorted((root / "archive").iterdir()):
        with tarfile.open(shard) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                found[f"{shard.name}/{info.name}"] = file.read()
    return found


def test_archive_holds_what_the_truth_says(made: tuple[Path, list[Truth]]) -> None:
    root, truths = made
    assert len(truths) == FEW.images
    assert Amounts().images >= 120
    assert set(members(root)) == {t.image_id for t in truths}
    applied = Counter(t.applied for t in truths if not t.broken)
    assert set(applied) == {*SINGLES, *(">".join(m) for m in MIXTURES), ""}
    assert sorted(t.broken for t in truths if t.broken) == ["empty_file", "not_an_image", "truncated"]


def test_references_match_in_size(made: tuple[Path, list[Truth]]) -> None:
    root, truths = made
    stored = members(root)
    for truth in truths:
        if not truth.broken:
            image = pyvips.Image.new_from_buffer(stored[truth.image_id], "", fail_on="warning")
            clean = pyvips.Image.new_from_file(str(root / truth.reference))
            assert (image.width, image.height, image.bands) == (clean.width, clean.height, clean.bands)


def test_scans(made: tuple[Path, list[Truth]]) -> None:
    stored = {name.split("/")[1]: data for name, data in members(made[0]).items()}
    grey = pyvips.Image.new_from_buffer(stored["scan-grey.tif"], "")
    deep = pyvips.Image.new_from_buffer(stored["scan-16bit.tif"], "")
    assert (grey.bands, grey.format) == (1, "uchar")
    assert (deep.bands, deep.format) == (3, "ushort")
    assert round(deep.xres * 25.4) == 300
    assert len(np.unique(deep.numpy() % 257)) > 1  # more than 8 bits of information


def test_broken_files_are_broken(made: tuple[Path, list[Truth]]) -> None:
    stored = {name.split("/")[1]: data for name, data in members(made[0]).items()}
    assert stored["empty.png"] == b""
    for name in ("letter.png", "cut-short.jpg"):
        with pytest.raises(pyvips.Error):
            pyvips.Image.new_from_buffer(stored[name], "", fail_on="warning").avg()


def test_same_bytes_every_time(made: tuple[Path, list[Truth]], tmp_path: Path) -> None:
    root, truths = made
    assert make_archive(tmp_path, FEW) == truths

    def digest(folder: Path) -> list[str]:
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()]

    assert digest(tmp_path) == digest(root)


def test_an_archive_that_is_there_is_kept(made: tuple[Path, list[Truth]]) -> None:
    root, truths = made
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert make_archive(root, FEW) == truths
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before
