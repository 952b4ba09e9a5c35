"""``python -m jobs.training.prepare ORIGINALS FOLDER``: make the listed pictures of their repositories' own files.

Every row of docs/training-data.tsv that names a file (``source_path``) is read from the clone of its repository,
ORIGINALS/<source_repository>, as it was at ``source_commit``, reduced, and written where the list has it under FOLDER.
Rows without one are copied by hand. Does NOT clone anything, nor choose pictures.
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pyvips

from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.models.checkpoints import file_sha256

_SIDE_PX = 1600  # of the longer side: reduced twice and more, as in training, it still gives several tiles
_QUALITY = 85


def prepared(data: bytes) -> bytes:
    """A JPEG of a photograph's file: sRGB, turned upright, at most 1,600 px a side, nothing but pixels.

    Raises:
        pyvips.Error: libvips can't read it.
    """
    image = pyvips.Image.thumbnail_buffer(data, _SIDE_PX, height=_SIDE_PX, size="down", export_profile="srgb")
    image = image.flatten() if image.hasalpha() else image
    return bytes(image.jpegsave_buffer(Q=_QUALITY, keep="none"))


def _original(originals: Path, row: dict[str, str]) -> bytes:
    clone, file = originals / row["source_repository"], f"{row['source_commit']}:{row['source_path']}"
    shown = subprocess.run(["git", "-C", str(clone), "cat-file", "--filters", file], capture_output=True, check=False)
    if shown.returncode:
        raise ManifestError(
            f"original not found: {shown.stderr.decode(errors='replace').strip()}", key="ORIGINALS",
            value=f"{clone} {file}",
            remedy=f"clone {row['source_repository']} into {clone}, with all its history and large files",
        )  # fmt: skip
    return shown.stdout


def run(originals: Path, folder: Path, table: Path) -> tuple[int, list[str]]:
    """Write the pictures that aren't there yet.

    Args:
        originals: holds a clone ``owner/name`` of each repository.
        folder: of the pictures; training and evaluation take it as FDI_DATA.
        table: list of pictures.

    Returns:
        How many were written, and those whose hash is not the listed one: another libvips encodes otherwise.

    Raises:
        ManifestError: a file is missing, or can't be read.
    """
    with table.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row.get("source_path")]
    written, differing = 0, []
    for row in rows:
        target = folder / row["picture"]
        if target.is_file() and file_sha256(target) == row["sha256"]:
            continue
        original = _original(originals, row)
        try:
            data = prepared(original)
        except pyvips.Error as error:
            reason = str(error).strip().splitlines()[-1]
            raise ManifestError(f"original can't be read: {reason}", key="ORIGINALS", value=row["source_path"],
                                remedy="see whether its repository keeps large files elsewhere") from None  # fmt: skip
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        written += 1
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            differing.append(row["picture"])
    return written, differing


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pictures and say which differ; 2 for what can't be read, 1 where hashes differ."""
    parser = ArgumentParser(prog="python -m jobs.training.prepare", description=__doc__)
    parser.add_argument("originals", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, default=Path("docs/training-data.tsv"))
    given = parser.parse_args(argv)
    try:
        written, differing = run(given.originals, given.folder, given.pictures)
    except (FDIError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{written} pictures written to {given.folder}")
    for picture in differing:
        print(f"differs from the list: {picture} (made with libvips 8.18.7; correct the list, or use that)")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
