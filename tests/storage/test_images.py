"""Pictures in, pictures out: what must survive a round trip."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import pyvips
from lxml import etree
from PIL import Image

from fdi_lib.core.floats import to_float_rgb
from fdi_lib.errors import ItemError
from fdi_lib.manifest import ImageSettings
from fdi_lib.records import Reason
from fdi_lib.storage import tiff
from fdi_lib.storage.images import decode, encode, inspect, thumbnail
from fdi_lib.storage.metadata import read_xmp
from fdi_lib.storage.provenance import DIGITAL_SOURCE_TYPE
from tests.storage.pictures import (
    GREY_ICC,
    ICC,
    KINDS,
    LABEL,
    SAME,
    bare,
    exif_of,
    picture,
    reencode,
    rich,
    unsupported,
)


@pytest.mark.parametrize(("format", "bits", "channels"), KINDS)
def test_a_round_trip_keeps_everything(format: str, bits: int, channels: int) -> None:
    data = rich(format, bits, channels)
    result = reencode(data)
    before, after = inspect(data, 400), inspect(result, 400)
    assert after == before
    assert (after.format, after.bits, after.bands, after.width, after.height) == (format, bits, channels, 64, 48)

    source, output = decode(data, 400), decode(result, 400)
    assert output.pixels.dtype == source.pixels.dtype and output.pixels.shape == source.pixels.shape
    expected = to_float_rgb(source.pixels) * 1.02
    assert np.abs(to_float_rgb(output.pixels) - np.minimum(expected, 1)).max() < (0.06 if format == "jpeg" else 0.003)

    theirs, ours = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(result))
    assert ours.info["icc_profile"] == (ICC if channels == 3 else GREY_ICC)
    assert ours.info["dpi"] == theirs.info["dpi"] and round(float(ours.info["dpi"][0])) == 300
    assert exif_of(data)[0x0112] == 6 and exif_of(data)["gps1"] == "N" and exif_of(data)[0x9003]  # the test's own file
    assert exif_of(result) == exif_of(data)
    packet = etree.fromstring(read_xmp(result, format))
    assert packet.xpath("//@*[local-name()='source']") == ["box 7"]
    assert packet.xpath("//*[local-name()='DigitalSourceType']/text()") == [DIGITAL_SOURCE_TYPE]
    assert result.count(b"XML:com.adobe.xmp\0") == (format == "png")  # libvips keeps its packet in another chunk
    assert reencode(data) == result  # the same bytes, and no clock in them


def test_an_unchanged_picture_survives_exactly_where_the_format_is_lossless() -> None:
    for format, bits, channels in KINDS:
        if format != "jpeg":
            image = decode(rich(format, bits, channels), 400)
            data, extension = encode(image, image.pixels, SAME, LABEL)
            assert extension == ""
            np.testing.assert_array_equal(decode(data, 400).pixels, image.pixels)


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize(("bits", "channels"), [(8, 2), (8, 4), (16, 4)])
def test_alpha_is_carried_over_untouched(format: str, bits: int, channels: int) -> None:
    rng = np.random.default_rng(1)
    samples = rng.integers(0, 255 if bits == 8 else 65535, (20, 30, channels)).astype(f"u{bits // 8}")
    image = decode(bare(format, samples), 400)
    np.testing.assert_array_equal(image.alpha, samples[..., -1])
    data, _ = encode(image, image.pixels, SAME, LABEL)
    again = decode(data, 400)
    np.testing.assert_array_equal(again.alpha, image.alpha)
    np.testing.assert_array_equal(again.pixels, samples[..., 0] if channels == 2 else samples[..., :3])
    with pytest.raises(ItemError, match="alpha") as caught:
        encode(image, image.pixels, ImageSettings(format="jpeg"), LABEL)
    assert caught.value.reason == Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "jpeg", "packbits"])
def test_tiff_compression_and_tiles_are_kept(compression: str) -> None:
    for tile in (False, True):
        data = bare("tiff", picture(), compression=compression, tile=tile, tile_width=32, tile_height=32)
        before, after = (tiff.read_directories(d)[0] for d in (data, reencode(data)))
        assert after[259] == before[259]
        assert (322 in before, 322 in after) == (tile, tile)


def test_bigtiff_stays_bigtiff() -> None:
    data = bare("tiff", picture(16), bigtiff=True, compression="lzw")
    result = reencode(data)
    assert tiff.read_header(data).big and tiff.read_header(result).big
    assert Image.open(io.BytesIO(result)).size == (64, 48)


@pytest.mark.parametrize("bits", [8, 16])
def test_min_is_white_looks_the_same_and_stays_min_is_white(bits: int) -> None:
    stored = picture(bits, 1)
    plain = bare("tiff", stored)
    tags = tiff.read_directories(plain)[0]
    data = tiff.replace_directory(plain, tags | {262: tiff.Tag(3, struct.pack("<H", 0))})
    image = decode(data, 400)
    np.testing.assert_array_equal(image.pixels, np.iinfo(stored.dtype).max - stored)  # as a viewer shows it
    result, _ = encode(image, image.pixels, SAME, LABEL)
    assert tiff.read_directories(result)[0][262].numbers == [0]
    np.testing.assert_array_equal(decode(result, 400).pixels, image.pixels)
    as_png, _ = encode(image, image.pixels, ImageSettings(format="png"), LABEL)
    np.testing.assert_array_equal(decode(as_png, 400).pixels, image.pixels)


def test_big_endian_tiff_keeps_its_tags() -> None:
    width, height, pixels = 4, 3, struct.pack(">12H", *range(0, 60_000, 5_000))
    values = {256: (3, width), 257: (3, height), 258: (3, 16), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1),
              278: (3, height), 279: (4, len(pixels))}  # fmt: skip
    entries = [struct.pack(">HHI", c, k, 1) + struct.pack(">HxxI"[: 4 if k == 3 else 1] if k == 3 else ">I", v)
               for c, (k, v) in values.items()]  # fmt: skip
    at = 8 + len(pixels) + 2 + 12 * (len(entries) + 1) + 4
    entries.append(struct.pack(">HHII", 282, 5, 1, at))
    data = struct.pack(">2sHI", b"MM", 42, 8 + len(pixels)) + pixels + struct.pack(">H", len(entries))
    data += b"".join(entries) + bytes(4) + struct.pack(">II", 600, 1)
    image = decode(data, 400)
    assert image.pixels.tolist()[0] == [0, 5_000, 10_000, 15_000]
    result, _ = encode(image, image.pixels, SAME, LABEL)
    assert tiff.read_directories(result)[0][282].value == struct.pack("<II", 600, 1)


@pytest.mark.parametrize("source", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("target", ["jpeg", "png", "tiff"])
def test_a_changed_format_takes_profile_exif_xmp_and_resolution_along(source: str, target: str) -> None:
    data = rich(source, 8, 3)
    image = decode(data, 400)
    result, extension = encode(image, image.pixels, ImageSettings(format=target), LABEL)
    assert extension == ("" if source == target else {"jpeg": ".jpg", "png": ".png", "tiff": ".tiff"}[target])
    opened = Image.open(io.BytesIO(result))
    assert inspect(result, 400).format == target
    assert opened.info["icc_profile"] == ICC
    assert float(opened.info["dpi"][0]) == pytest.approx(300, abs=0.02)
    assert exif_of(result) == exif_of(data)
    assert b"box 7" in read_xmp(result, target)


def test_sixteen_bits_become_eight_only_for_jpeg() -> None:
    image = decode(bare("png", picture(16)), 400)
    jpeg, _ = encode(image, image.pixels, ImageSettings(format="jpeg", quality=100), LABEL)
    assert np.abs(to_float_rgb(decode(jpeg, 400).pixels) - to_float_rgb(image.pixels)).max() < 0.03
    tiff16, _ = encode(image, image.pixels, ImageSettings(format="tiff"), LABEL)
    np.testing.assert_array_equal(decode(tiff16, 400).pixels, image.pixels)


def test_a_format_that_cannot_be_written_and_pixels_of_another_shape_are_refused() -> None:
    image = decode(bare("png", picture()), 400)
    with pytest.raises(ValueError, match="jp2"):
        encode(image, image.pixels, ImageSettings.model_construct(format="jp2", quality=95), LABEL)
    with pytest.raises(ValueError, match="in place of"):
        encode(image, image.pixels[:-1], SAME, LABEL)


def test_another_thread_count_gives_the_same_bytes() -> None:
    data = bare("tiff", picture(16, 3, 600, 700), compression="deflate", tile=True)

    def outputs(threads: int) -> list[bytes]:
        pyvips.concurrency_set(threads)
        image = decode(data, 400)
        formats = ("same", "png", "jpeg")
        return [encode(image, image.pixels, ImageSettings(format=format), LABEL)[0] for format in formats]

    before = pyvips.concurrency_get()
    try:
        assert outputs(1) == outputs(4)
    finally:
        pyvips.concurrency_set(before)


@pytest.mark.parametrize(("format", "bits", "channels"), KINDS)
def test_thumbnails_show_the_picture(format: str, bits: int, channels: int) -> None:
    small = Image.open(io.BytesIO(thumbnail(bare(format, picture(bits, channels)), 32, 400)))
    assert (small.format, small.size, small.mode) == ("JPEG", (32, 24), "RGB")
    values = np.asarray(small).astype(float)
    assert values[0, 0].mean() < 40  # the dark corner
    assert values[-1, -1].mean() > 215  # the light one


def test_thumbnails_of_other_pictures() -> None:
    upright = Image.open(io.BytesIO(thumbnail(rich("jpeg", 8, 3), 32, 400)))
    assert upright.size == (24, 32)  # orientation 6
    for name in ("cmyk jpeg", "palette png", "1-bit tiff", "two pages", "animated gif"):
        assert Image.open(io.BytesIO(thumbnail(unsupported()[name][0], 32, 400))).size == (32, 24)
    assert Image.open(io.BytesIO(thumbnail(bare("png", picture()), 999, 400))).size == (64, 48)
    small = bare("png", picture())
    for data, reason, limit in (
        (b"", Reason.EMPTY_FILE, 400),
        (b"text", Reason.UNREADABLE, 400),
        (small, Reason.TOO_LARGE, 0.003),
    ):
        with pytest.raises(ItemError) as caught:
            thumbnail(data, 32, limit)
        assert caught.value.reason == reason
