"""Metadata that leave no room for the label: the picture is never lost for them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from fdi_lib.storage import metadata
from tests import fakes
from tests.stages.test_restore import World
from tests.storage.pictures import XMP, pillow

_ROOM = metadata._SEGMENT_MAX - len(metadata._XMP_HEAD)


def _packet(size: int) -> bytes:
    """A well-formed packet of so many bytes, all of them content."""
    return XMP.replace(b"box 7", b"box 7" + b"x" * (size - len(XMP)))


def _file(format: str, xmp: bytes) -> bytes:
    """A picture with that packet."""
    image = Image.new("RGB", (32, 32), (100, 90, 110))
    if format == "jpeg":
        return pillow("jpeg", image, xmp=xmp, quality=95)
    plain = pillow(format, image)
    return metadata.transplant(plain, format, plain, format, xmp)


def _restored(folder: Path, name: str, data: bytes, **settings: object) -> dict[str, object]:
    world = World(folder, **settings)
    row = world.row(name)
    (world.source / name).write_bytes(data)
    row |= {"source_sha256": hashlib.sha256(data).hexdigest(), "source_bytes": len(data)}
    return world.work([row, world.row("beside.png")], fakes.FakeRestorer())[name]


@pytest.mark.parametrize(("size", "status"), [(_ROOM, "kept"), (_ROOM - 500, "kept"), (_ROOM - 3000, "restored")])
def test_a_jpeg_without_room_for_the_label_is_copied_and_says_what_has_room(
    tmp_path: Path, size: int, status: str
) -> None:
    data = _file("jpeg", _packet(size))
    assert Image.open(io.BytesIO(data)).info["xmp"] == _packet(size)  # others read it, too
    row = _restored(tmp_path, "a.jpg", data)
    assert row["status"] == status
    if status == "kept":
        assert (tmp_path / "out/images/a.jpg").read_bytes() == data
        assert row["reason"] == "unsupported_metadata" and "output.image.format: tiff or png" in str(row["detail"])
        outcome = json.loads((tmp_path / "out/images/a.jpg.json").read_text())["outcome"]
        assert outcome == {key: row[key] for key in ("status", "reason", "detail")}
    assert not (tmp_path / "out/failed").exists()


@pytest.mark.parametrize("format", ["tiff", "png"])
def test_the_remedy_that_it_names_works(tmp_path: Path, format: str) -> None:
    output = {"uri": str(tmp_path / "out"), "image": {"format": format}}
    row = _restored(tmp_path, "a.jpg", _file("jpeg", _packet(_ROOM)), output=output)
    assert row["status"] == "restored"
    made = (tmp_path / f"out/images/a.{format}").read_bytes()
    assert b"box 7" + b"x" * 60_000 in metadata.read_xmp(made, format)


@pytest.mark.parametrize("format", ["tiff", "png"])
def test_png_and_tiff_have_room_for_a_packet_of_any_size(tmp_path: Path, format: str) -> None:
    row = _restored(tmp_path, f"a.{format}", _file(format, _packet(3_000_000)))
    assert row["status"] == "restored"
    xmp = metadata.read_xmp((tmp_path / f"out/images/a.{format}").read_bytes(), format)
    assert len(xmp) > 3_000_000 and b"compositeWithTrainedAlgorithmicMedia" in xmp


def test_a_packet_too_large_for_the_jpeg_asked_for_is_no_failure(tmp_path: Path) -> None:
    output = {"uri": str(tmp_path / "out"), "image": {"format": "jpeg"}}
    data = _file("png", _packet(100_000))
    row = _restored(tmp_path, "a.png", data, output=output)
    assert (row["status"], row["reason"]) == ("kept", "unsupported_metadata")
    assert (tmp_path / "out/images/a.png").read_bytes() == data
