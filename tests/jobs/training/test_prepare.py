"""Pictures are made of the listed originals, once, and a hash that differs is told."""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from jobs.training.prepare import main, prepared

HEADS = "picture\tgroup_id\tkind\tsource_repository\tlicence\tsha256\tsplit\tsource_path\tsource_commit\n"


def _photograph(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, "png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    return file.getvalue()


def _commit(clone: Path, data: bytes) -> str:
    """Commit a file, photos/a.png; return the commit's hash."""
    (clone / "photos").mkdir(parents=True, exist_ok=True)
    (clone / "photos/a.png").write_bytes(data)
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def _list(tmp_path: Path, sha256: str, commit: str) -> list[str]:
    row = f"more/a.jpg\ta\tphoto\towner/name\tCC0-1.0\t{sha256}\ttrain\tphotos/a.png\t{commit}\n"
    by_hand = "old/b.jpg\tb\tphoto\towner/other\tCC0-1.0\tabc\ttrain\t\t\n"
    (tmp_path / "list.tsv").write_text(HEADS + row + by_hand)
    return [str(tmp_path / "originals"), str(tmp_path / "out"), "--pictures", str(tmp_path / "list.tsv")]


@pytest.mark.parametrize(("width", "height", "made"), [(2000, 1000, (1600, 800)), (320, 480, (320, 480))])
def test_large_ones_are_reduced_and_small_ones_stay(width, height, made):
    image = pyvips.Image.new_from_buffer(prepared(_photograph(width, height)), "")
    assert (image.width, image.height) == made and image.bands == 3 and "exif-data" not in image.get_fields()


def test_listed_pictures_are_made_once_as_they_were_at_their_commit(tmp_path, capsys):
    clone, data = tmp_path / "originals/owner/name", _photograph(640, 480)
    commit = _commit(clone, data)
    _commit(clone, _photograph(64, 48))  # a later one
    given = _list(tmp_path, hashlib.sha256(prepared(data)).hexdigest(), commit)
    assert main(given) == 0 and (tmp_path / "out/more/a.jpg").read_bytes() == prepared(data)
    assert not (tmp_path / "out/old").exists() and "1 pictures written" in capsys.readouterr().out
    clone.rename(tmp_path / "gone")
    assert main(given) == 0 and "0 pictures written" in capsys.readouterr().out


def test_what_differs_or_is_missing_is_told(tmp_path, capsys):
    assert main(_list(tmp_path, "0" * 64, "0" * 40)) == 2
    assert "clone owner/name into" in capsys.readouterr().err
    commit = _commit(tmp_path / "originals/owner/name", _photograph(64, 48))
    assert main(_list(tmp_path, "0" * 64, commit)) == 1
    assert "differs from the list: more/a.jpg" in capsys.readouterr().out
    commit = _commit(tmp_path / "originals/owner/name", b"no picture")
    assert main(_list(tmp_path, "0" * 64, commit)) == 2 and "can't be read" in capsys.readouterr().err
