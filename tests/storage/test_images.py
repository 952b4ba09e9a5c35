"""Pictures in, pictures out: what must survive a round trip, and what must be refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from fdi_lib.errors import ItemError
from fdi_lib.manifest import ImageSettings
from fdi_lib.records import Reason
from fdi_lib.storage import tiff
from fdi_lib.storage.images import decode, encode, from_float_rgb, inspect, thumbnail, to_float_rgb
from fdi_lib.storage.metadata import read_xmp
from fdi_lib.storage.provenance import DIGITAL_SOURCE_TYPE, Label

LABEL = Label("s3://archive/a.tif", "ab" * 32, "noise:1.00", "fdi-restore", "0.1.0", "2026-11-23T07:00:00Z")
SAME = ImageSettings()
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_ICC = ICC[:16] + b"GRAY" + ICC[20:]  # a grey scan's profile: the bytes matter here, not the curves
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="box 7"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
KINDS = [("jpeg", 8, 1), ("jpeg", 8, 3), *[(f, b, c) for f in ("png", "tiff") for b in (8, 16) for c in (1, 3)]]
SAVE = {"jpeg": "jpegsave_buffer", "png": "pngsave_buffer", "tiff": "tiffsave_buffer"}


def picture(bits: int = 8, channels: int = 3, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, full range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    base = np.stack([y, x, (x + y) / 2][:channels], axis=2) + rng.normal(0, 0.01, (height, width, channels))
    top = 255 if bits == 8 else 65535
    pixels = np.rint(np.clip(base, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)
    return pixels[..., 0] if channels == 1 else pixels


def vips(pixels: np.ndarray) -> pyvips.Image:
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    sixteen = pixels.dtype == np.uint16
    names = ("grey16", "rgb16") if sixteen else ("b-w", "srgb")
    return pyvips.Image.new_from_array(pixels).copy(interpretation=names[samples >= 3])


def bare(format: str, pixels: np.ndarray, **options: object) -> bytes:
    return getattr(vips(pixels), SAVE[format])(keep="none", **options)


def pillow(format: str, image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def rich(format: str, bits: int, channels: int) -> bytes:
    """A file with profile, resolution, EXIF (orientation 6, GPS) and XMP, made by other software than ours."""
    profile = ICC if channels == 3 else GREY_ICC
    exif = Image.Exif()
    exif.update({0x010F: "Acme", 0x0112: 6, 0x013B: "Hine"})
    exif.get_ifd(0x8769).update({0x9003: "1911:05:01 10:00:00", 0x829A: TiffImagePlugin.IFDRational(1, 125)})
    exif.get_ifd(0x8825).update({1: "N", 2: (40.0, 45.0, 10.0)})
    pixels = picture(bits, channels)
    if format == "tiff":  # Pillow doesn't write 48-bit: a chunk of TIFF that says everything, then libvips' pixels
        plain = bare("tiff", pixels, compression="lzw")
        tags = tiff.read_directories(plain)[0] | tiff.read_directories(exif.tobytes()[6:])[0]
        tags |= {
            700: tiff.Tag(1, XMP),
            34675: tiff.Tag(7, profile),
            282: tiff.Tag(5, struct.pack("<II", 3000, 10)),
            283: tiff.Tag(5, struct.pack("<II", 3000, 10)),
            296: tiff.Tag(3, struct.pack("<H", 2)),
            270: tiff.Tag(2, b"Fifth Avenue\0"),
            33723: tiff.Tag(7, b"\x1c\x02\x05\0\x04name"),
        }
        return tiff.replace_directory(plain, tags)
    if format == "png" and (bits, channels) == (16, 3):
        image = vips(pixels).copy()
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
        image.set_type(pyvips.GValue.blob_type, "exif-data", b"Exif\0\0" + exif.tobytes()[6:])
        image.set_type(pyvips.GValue.blob_type, "xmp-data", XMP)
        return image.copy(xres=300 / 25.4, yres=300 / 25.4).pngsave_buffer(keep="all")
    extra: dict[str, object] = {"xmp": XMP, "quality": 95}
    if format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Title", "Fifth Avenue")
        extra = {"pnginfo": info}
    return pillow(format, Image.fromarray(pixels), icc_profile=profile, dpi=(300, 300), exif=exif, **extra)


def reencode(data: bytes, settings: ImageSettings = SAME) -> bytes:
    """Decode, brighten a little as a stand-in for restoration, encode."""
    image = decode(data, 400)
    changed = from_float_rgb(np.minimum(to_float_rgb(image.pixels) * 1.02, 1.0), image.pixels)
    return encode(image, changed, settings, LABEL)[0]


def exif_of(data: bytes) -> dict[int, object]:
    exif = Image.open(io.BytesIO(data)).getexif()
    tags = {0x010F: exif.get(0x010F), 0x0112: exif.get(0x0112), 0x013B: exif.get(0x013B)}
    return tags | dict(exif.get_ifd(0x8769)) | {f"gps{k}": v for k, v in exif.get_ifd(0x8825).items()}


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


NOISE = np.random.default_rng(2).integers(0, 255, (200, 200, 3)).astype(np.uint8)


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_files_are_named_never_black(format: str, share: float) -> None:
    for options in [{}, {"compression": "lzw"}] if format == "tiff" else [{}]:
        data = bare(format, NOISE, **options)
        with pytest.raises(ItemError) as caught:
            decode(data[: int(len(data) * share)], 400)
        assert caught.value.reason == Reason.TRUNCATED, caught.value


TAGS = {
    "text without its NUL": (270, tiff.Tag(2, b"Fifth Avenue")),
    "a count of two": (286, tiff.Tag(5, bytes(16))),
    "orientation 0": (274, tiff.Tag(3, b"\0\0")),
    "a private tag": (65000, tiff.Tag(7, b"scanner's own")),
}


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_odd_metadata_do_not_make_a_whole_picture_broken(name: str, order: str) -> None:
    plain = bare("tiff", NOISE)  # 8 bits: the samples are the same in either byte order
    tags = tiff.read_directories(plain)[0] | {TAGS[name][0]: TAGS[name][1]}
    head = {"<": plain[:4], ">": b"MM\0*"}[order]
    data = tiff.replace_directory(head + plain[4:], tags)
    image = decode(data, 400)
    np.testing.assert_array_equal(image.pixels, NOISE)
    result, _ = encode(image, image.pixels, SAME, LABEL)
    assert tiff.read_directories(result)[0][TAGS[name][0]] == TAGS[name][1]
    np.testing.assert_array_equal(decode(result, 400).pixels, NOISE)
    with pytest.raises(ItemError) as caught:  # and yet
        decode(data[: len(data) // 2], 400)
    assert caught.value.reason == Reason.TRUNCATED


def test_a_png_with_a_broken_profile_is_read() -> None:
    data = bytearray(pillow("png", Image.fromarray(NOISE), icc_profile=ICC))
    at = data.index(b"iCCP")
    data[at + 40] ^= 0xFF  # its checksum is wrong now, too
    np.testing.assert_array_equal(decode(bytes(data), 400).pixels, NOISE)


def test_a_jpeg_without_its_last_bytes_is_truncated() -> None:
    with pytest.raises(ItemError) as caught:
        decode(bare("jpeg", NOISE)[:-2], 400)
    assert caught.value.reason == Reason.TRUNCATED


def test_a_tiff_truncated_behind_its_directory_is_truncated() -> None:
    plain = bare("tiff", NOISE)
    directory = tiff.read_directories(plain)[0]
    block, at = tiff.write_directory(directory | {273: tiff.Tag(4, struct.pack("<I", 4096))}, 8, big=False)
    moved = (struct.pack("<2sHI", b"II", 42, at) + block).ljust(4096, b"\0") + NOISE.tobytes()
    for data in (moved[:-1], moved[:50_000]):
        with pytest.raises(ItemError) as caught:
            decode(data, 400)
        assert caught.value.reason == Reason.TRUNCATED


def test_flipped_bits_in_a_png_are_found() -> None:
    data = bytearray(bare("png", NOISE))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ItemError) as caught:
        decode(bytes(data), 400)
    assert caught.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"This is a note, named scan.png.\n" * 40, Reason.NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", Reason.NOT_AN_IMAGE),
        (b"\x89PNG\r\n\x1a\n", Reason.TRUNCATED),
        (b"\xff\xd8\xff\xe0", Reason.TRUNCATED),
        (b"II*\0\x08\0\0\0", Reason.TRUNCATED),
        (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", Reason.UNREADABLE),  # a directory that follows itself
        (b"\xff\xd8\xff\xe0\0\x04ab" + bytes(40), Reason.UNREADABLE),
    ],
)
def test_what_is_not_an_image_has_a_reason(data: bytes, reason: Reason) -> None:
    for function in (lambda: inspect(data, 400), lambda: decode(data, 400)):
        with pytest.raises(ItemError) as caught:
            function()
        assert caught.value.reason == reason


def test_a_cycle_of_tiff_directories_ends() -> None:
    plain = bare("tiff", picture())
    directory = tiff.read_directories(plain)[0]
    data = bytearray(tiff.replace_directory(plain, directory))
    (at,) = struct.unpack_from("<I", data, 4)
    struct.pack_into("<I", data, at + 2 + 12 * len(directory), at)
    with pytest.raises(ItemError, match="cycle") as caught:
        inspect(bytes(data), 400)
    assert caught.value.reason == Reason.UNREADABLE


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff"])
def test_a_pixel_bomb_is_refused_from_its_header(format: str) -> None:
    data = bytearray(bare(format, picture()))
    if format == "png":
        struct.pack_into(">II", data, 16, 100_000, 100_000)
    elif format == "jpeg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 60_000, 60_000)
    else:
        tags = tiff.read_directories(bytes(data))[0]
        tags |= {256: tiff.Tag(4, struct.pack("<I", 10**6)), 257: tiff.Tag(4, struct.pack("<I", 10**6))}
        data = bytearray(tiff.replace_directory(bytes(data), tags))
    with pytest.raises(ItemError) as caught:
        decode(bytes(data), 400)
    assert caught.value.reason == Reason.TOO_LARGE
    with pytest.raises(ItemError) as caught:
        decode(bare(format, picture()), 0.003)  # 64 x 48 is 0.003072 megapixels
    assert caught.value.reason == Reason.TOO_LARGE


SMALL = {format: rich(format, 8, 3) for format in SAVE}


@pytest.mark.parametrize("format", SMALL)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damage_is_an_item_error_or_harmless(format: str, data: st.DataObject) -> None:
    damaged = bytearray(SMALL[format])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    target = data.draw(st.sampled_from(["same", "png", "tiff", "jpeg"]))
    try:
        image = decode(bytes(damaged), 1)
        result, _ = encode(image, image.pixels, ImageSettings(format=target), LABEL)
    except ItemError as error:
        assert error.reason
    else:
        assert decode(result, 1).pixels.shape == image.pixels.shape


def unsupported() -> dict[str, tuple[bytes, str, int]]:
    grey, rgb = Image.fromarray(picture(8, 1)), Image.fromarray(picture())
    frames = {"save_all": True, "append_images": [Image.fromarray(picture(seed=1))]}
    floats = pyvips.Image.new_from_array(picture(8, 1).astype(np.float32))
    return {
        "1-bit png": (pillow("png", grey.convert("1")), "1 bits", 1),
        "1-bit tiff": (pillow("tiff", grey.convert("1"), compression="group4"), "1 bits", 1),
        "palette png": (pillow("png", rgb.convert("P")), "palette", 1),
        "palette tiff": (pillow("tiff", rgb.convert("P")), "palette", 1),
        "cmyk jpeg": (pillow("jpeg", rgb.convert("CMYK")), "CMYK", 1),
        "cmyk tiff": (pillow("tiff", rgb.convert("CMYK")), "CMYK", 1),
        "lab tiff": (pillow("tiff", Image.new("LAB", (64, 48))), "CIELab", 1),
        "float tiff": (floats.tiffsave_buffer(), "32 bits", 1),
        "two pages": (pillow("tiff", rgb, **frames), "2 pages", 2),
        "animated png": (pillow("png", rgb, **frames), "animated", 1),
        "animated gif": (pillow("gif", rgb, **frames), "gif, 2 pages", 2),
        "colour key": (pillow("png", rgb, transparency=(1, 2, 3)), "transparent", 1),
        "webp": (vips(picture()).webpsave_buffer(), "webp", 1),
        "zstd tiff": (zstd_tiff(), "compression 50000", 1),
        "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20) + b"ihdr" + struct.pack(">IIHB", 48, 64, 3, 7),
                      "JPEG 2000", 1),
    }  # fmt: skip


def zstd_tiff() -> bytes:
    """libvips reads this as black rows without a word, where it lacks the codec."""
    plain = bare("tiff", picture())
    return tiff.replace_directory(plain, tiff.read_directories(plain)[0] | {259: tiff.Tag(3, struct.pack("<H", 50000))})


@pytest.mark.parametrize("name", unsupported())
def test_pixels_without_a_restoration_are_refused_with_their_facts(name: str) -> None:
    data, why, pages = unsupported()[name]
    facts = inspect(data, 400)
    assert why in facts.unsupported
    assert (facts.width, facts.height, facts.pages) == (64, 48, ((64, 48),) * pages)
    with pytest.raises(ItemError, match=why) as caught:
        decode(data, 400)
    assert caught.value.reason == Reason.UNSUPPORTED_PIXELS


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_survives_the_way_through_floats(dtype: type, channels: int) -> None:
    top = np.iinfo(dtype).max
    every = np.arange(top + 1, dtype=dtype).reshape(256, -1)
    pixels = every if channels == 1 else np.stack([every, every[::-1], every.T.reshape(every.shape)], axis=2)
    floats = to_float_rgb(pixels)
    assert floats.shape == (*every.shape, 3) and floats.dtype == np.float32
    assert floats.min() == 0.0 and floats.max() == 1.0
    back = from_float_rgb(floats, pixels)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, pixels)


def test_grey_comes_back_grey_and_nonsense_is_an_item_error() -> None:
    tinted = np.zeros((4, 4, 3), np.float32)
    tinted[..., 1] = 1.0
    assert from_float_rgb(tinted, np.zeros((4, 4), np.uint8)).tolist() == [[150] * 4] * 4  # 0.587 x 255, Rec. 601
    assert from_float_rgb(tinted * 7 - 3, np.zeros((4, 4, 3), np.uint8))[0, 0].tolist() == [0, 255, 0]  # clipped
    tinted[1, 2, 0] = np.nan
    with pytest.raises(ItemError) as caught:
        from_float_rgb(tinted, np.zeros((4, 4, 3), np.uint8))
    assert caught.value.reason == Reason.BAD_OUTPUT


@pytest.mark.parametrize(("format", "bits", "channels"), KINDS)
def test_thumbnails_show_the_picture(format: str, bits: int, channels: int) -> None:
    small = Image.open(io.BytesIO(thumbnail(bare(format, picture(bits, channels)), 32)))
    assert (small.format, small.size, small.mode) == ("JPEG", (32, 24), "RGB")
    values = np.asarray(small).astype(float)
    assert values[0, 0].mean() < 40  # the dark corner
    assert values[-1, -1].mean() > 215  # the light one


def test_thumbnails_of_other_pictures() -> None:
    upright = Image.open(io.BytesIO(thumbnail(rich("jpeg", 8, 3), 32)))
    assert upright.size == (24, 32)  # orientation 6
    for name in ("cmyk jpeg", "palette png", "1-bit tiff", "two pages", "animated gif"):
        assert Image.open(io.BytesIO(thumbnail(unsupported()[name][0], 32))).size == (32, 24)
    assert Image.open(io.BytesIO(thumbnail(bare("png", picture()), 999))).size == (64, 48)
    for data, reason in ((b"", Reason.EMPTY_FILE), (b"text", Reason.UNREADABLE)):
        with pytest.raises(ItemError) as caught:
            thumbnail(data, 32)
        assert caught.value.reason == reason
