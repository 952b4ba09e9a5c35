"""What a transplant keeps, drops and refuses, container by container."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import pyvips
from PIL import Image, PngImagePlugin

from fdi_lib.errors import ItemError
from fdi_lib.storage import tiff
from fdi_lib.storage.headers import jpeg_segments, png_chunks
from fdi_lib.storage.metadata import read_portable, read_xmp, transplant, without_metadata

IMAGE = pyvips.Image.new_from_array(np.full((8, 8, 3), 90, np.uint8))
JPEG, TIFF = IMAGE.jpegsave_buffer(keep="none"), IMAGE.tiffsave_buffer()


def small_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "png")  # Pillow's has no resolution, libvips' always one
    return stream.getvalue()


PNG = small_png()


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in segments)
    return JPEG[:2] + added + JPEG[2:]


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    added = b"".join(struct.pack(">I", len(p)) + n + p + struct.pack(">I", zlib.crc32(n + p)) for n, p in chunks)
    return PNG[:33] + added + PNG[33:]


def test_jpeg_segments_are_carried_byte_for_byte_and_content_credentials_stay_behind() -> None:
    photoshop, comment, other = (0xED, b"Photoshop 3.0\0" + b"8BIM" * 5), (0xFE, b"plate 7"), (0xE9, b"private")
    source = with_segments(photoshop, comment, other, (0xEB, b"JP" + b"c2pa"), (0xEE, b"Adobe" + bytes(7)))
    result = transplant(source, "jpeg", JPEG, "jpeg", b"<packet/>")
    found = [(s.name, s.payload) for s in jpeg_segments(result)]
    assert [s for s in (photoshop, comment, other) if s in found] == [photoshop, comment, other]
    assert not [name for name, _ in found if name in (0xEB, 0xEE)]
    assert read_xmp(result, "jpeg") == b"<packet/>"
    assert Image.open(io.BytesIO(result)).getpixel((0, 0)) == Image.open(io.BytesIO(JPEG)).getpixel((0, 0))


def test_a_packet_too_large_for_a_jpeg_is_named() -> None:
    with pytest.raises(ItemError, match="XMP packet of"):
        transplant(JPEG, "jpeg", JPEG, "jpeg", b"x" * 70_000)


def test_png_keeps_colour_and_text_and_drops_what_depends_on_pixels() -> None:
    source = with_chunks((b"gAMA", struct.pack(">I", 45455)), (b"caBX", b"c2pa"), (b"hIST", b"\0\1"),
                         (b"tEXt", b"Title\0Plate 7"), (b"prVt", b"safe to copy"), (b"prVT", b"unsafe"))  # fmt: skip
    names = [c.name for c in png_chunks(transplant(source, "png", PNG, "png", b"<packet/>"))]
    assert names == [b"IHDR", b"gAMA", b"tEXt", b"prVt", b"iTXt", b"IDAT", b"IEND"]


@pytest.mark.parametrize("compressed", [False, True])
def test_png_packets_are_read_however_they_are_stored(compressed: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<packet/>", zip=compressed)
    stream = io.BytesIO()
    Image.new("L", (2, 2)).save(stream, "png", pnginfo=info)
    assert read_xmp(stream.getvalue(), "png") == b"<packet/>"
    broken = with_chunks((b"zTXt", b"XML:com.adobe.xmp\0\0not zlib"))
    assert read_xmp(broken, "png") == b""


def test_tiff_takes_layout_from_the_encoder_and_the_rest_from_the_source() -> None:
    tags = tiff.read_directories(TIFF)[0] | {
        269: tiff.Tag(2, b"plate\0"),
        281: tiff.Tag(3, b"\xff\0" * 3),  # statistics of the old pixels
        37724: tiff.Tag(7, b"old layers"),
        65000: tiff.Tag(12, struct.pack("<d", 1.5)),  # private
    }
    encoded = IMAGE.tiffsave_buffer(compression="lzw", xres=1, yres=1)
    result = tiff.read_directories(transplant(tiff.replace_directory(TIFF, tags), "tiff", encoded, "tiff", b"<p/>"))[0]
    assert result[259].numbers == [5]
    assert (result[269], result[65000]) == (tags[269], tags[65000])
    assert result[282] == tags[282]  # the source's resolution, not the encoder's
    assert not {281, 37724} & result.keys()


def test_resolution_is_read_in_inches_and_absent_when_not_stated() -> None:
    def jfif(unit: int, density: int) -> tuple[int, bytes]:
        return 0xE0, b"JFIF\0" + struct.pack(">HBHHBB", 0x0101, unit, density, density, 0, 0)

    assert read_portable(with_segments(jfif(1, 300)), "jpeg").per_inch == (300, 300)
    assert read_portable(with_segments(jfif(2, 100)), "jpeg").per_inch == (254, 254)
    assert read_portable(PNG, "png").per_inch is None
    metre = with_chunks((b"pHYs", struct.pack(">IIB", 10_000, 5_000, 1)))
    assert read_portable(metre, "png").per_inch == (254.0, 127.0)
    plain = tiff.read_directories(TIFF)[0]
    zero = tiff.replace_directory(TIFF, plain | {282: tiff.Tag(5, bytes(8))})
    assert read_portable(zero, "tiff").per_inch is None
    odd = tiff.replace_directory(TIFF, plain | {282: tiff.Tag(2, b"300\0"), 296: tiff.Tag(2, b"inch\0")})
    assert read_portable(odd, "tiff").per_inch is None
    assert read_portable(with_segments((0xE0, b"JFIF\0\1\1\1")), "jpeg").per_inch is None  # cut short


def test_a_profile_in_parts_is_put_together_and_split_again() -> None:
    profile = bytes(range(256)) * 300  # more than one segment holds
    source = with_segments((0xE2, b"ICC_PROFILE\0\2\2" + profile[50_000:]),
                           (0xE2, b"ICC_PROFILE\0\1\2" + profile[:50_000]))  # fmt: skip
    assert read_portable(source, "jpeg").icc == profile
    as_png = transplant(source, "jpeg", PNG, "png", b"")
    assert read_portable(as_png, "png").icc == profile
    assert read_portable(transplant(as_png, "png", JPEG, "jpeg", b""), "jpeg").icc == profile
    with pytest.raises(ItemError, match="ICC profile"):
        huge = tiff.replace_directory(TIFF, tiff.read_directories(TIFF)[0] | {34675: tiff.Tag(7, bytes(17 << 20))})
        transplant(huge, "tiff", JPEG, "jpeg", b"")


def test_broken_blocks_do_not_stop_a_change_of_format() -> None:
    source = with_segments((0xE1, b"Exif\0\0not a directory"), (0xE2, b"ICC_PROFILE\0"))
    for format, encoded in (("png", PNG), ("tiff", TIFF)):
        assert read_xmp(transplant(source, "jpeg", encoded, format, b"<p/>"), format) == b"<p/>"


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff"])
def test_without_metadata_only_the_picture_is_left(format: str) -> None:
    source = {"jpeg": JPEG, "png": PNG, "tiff": TIFF}[format]
    labelled = transplant(source, format, source, format, b"<packet/>")
    bare = without_metadata(labelled, format)
    assert b"<packet/>" in labelled and read_xmp(bare, format) == b""
    pixels = [pyvips.Image.new_from_buffer(data, "").numpy() for data in (source, bare)]
    np.testing.assert_array_equal(pixels[0], pixels[1])
