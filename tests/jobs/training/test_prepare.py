"""Pictures are made of the listed originals, once, and a hash that differs is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from jobs.training.prepare import main, prepared

HEADS = "picture\tgroup_id\tkind\tsource_repository\tlicence\tsha256\tsplit\tsource_path\tsource_commit\n"


def _photograph(path: Path, width: int, height: int) -> bytes:
    path.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    return prepared(path)


def _list(tmp_path: Path, sha256: str) -> list[str]:
    row = f"more/a.jpg\ta\tphoto\towner/name\tCC0-1.0\t{sha256}\ttrain\tphotos/a.png\t{'0' * 40}\n"
    by_hand = "old/b.jpg\tb\tphoto\towner/other\tCC0-1.0\tabc\ttrain\t\t\n"
    (tmp_path / "list.tsv").write_text(HEADS + row + by_hand)
    return [str(tmp_path / "originals"), str(tmp_path / "out"), "--pictures", str(tmp_path / "list.tsv")]


@pytest.mark.parametrize(("width", "height", "made"), [(2000, 1000, (1600, 800)), (320, 480, (320, 480))])
def test_large_ones_are_reduced_and_small_ones_stay(tmp_path, width, height, made):
    image = pyvips.Image.new_from_buffer(_photograph(tmp_path / "x" / "a.png", width, height), "")
    assert (image.width, image.height) == made and image.bands == 3 and "exif-data" not in image.get_fields()


def test_listed_pictures_are_made_once(tmp_path, capsys):
    data = _photograph(tmp_path / "originals/owner/name/photos/a.png", 640, 480)
    given = _list(tmp_path, hashlib.sha256(data).hexdigest())
    assert main(given) == 0 and (tmp_path / "out/more/a.jpg").read_bytes() == data
    assert not (tmp_path / "out/old").exists() and "1 pictures written" in capsys.readouterr().out
    (tmp_path / "originals/owner/name/photos/a.png").unlink()
    assert main(given) == 0 and "0 pictures written" in capsys.readouterr().out


def test_what_differs_or_is_missing_is_told(tmp_path, capsys):
    given = _list(tmp_path, "0" * 64)
    assert main(given) == 2
    assert "check out owner/name at 0000000" in capsys.readouterr().err
    _photograph(tmp_path / "originals/owner/name/photos/a.png", 64, 48)
    assert main(given) == 1 and "differs from the list: more/a.jpg" in capsys.readouterr().out
    (tmp_path / "originals/owner/name/photos/a.png").write_bytes(b"no picture")
    assert main(given) == 2 and "can't be read" in capsys.readouterr().err
