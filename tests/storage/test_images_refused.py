"""Pictures that are broken, or that no restoration takes: each is refused with its reason, never read as black rows."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdi_lib.errors import ItemError
from fdi_lib.manifest import ImageSettings
from fdi_lib.records import Reason
from fdi_lib.storage import tiff
from fdi_lib.storage.images import _strict_samples, decode, encode, inspect
from tests.storage.pictures import ICC, LABEL, SAME, SAVE, bare, picture, pillow, rich, unsupported

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


@pytest.mark.parametrize("format", SAVE)
def test_nothing_is_decoded_but_what_was_inspected(format: str) -> None:
    """Two readers of one header may differ: the limit on pixels must hold for the one that decodes."""
    data = bare(format, NOISE, **({"compression": "lzw"} if format == "tiff" else {}))
    broken, facts = data[:2000] + b"\xff" * 200 + data[2200:], inspect(data, 400)
    for other in (
        replace(facts, width=100),
        replace(facts, height=100),
        replace(facts, bands=1),
        replace(facts, bits=16),
    ):
        with pytest.raises(ItemError, match=r"unreadable.*the header says"):
            _strict_samples(broken, other)
    with pytest.raises(ItemError, match="truncated"):  # so decoding would have said
        _strict_samples(broken, facts)
    assert _strict_samples(data, facts).shape == NOISE.shape


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


@pytest.mark.parametrize("name", unsupported())
def test_pixels_without_a_restoration_are_refused_with_their_facts(name: str) -> None:
    data, why, pages = unsupported()[name]
    facts = inspect(data, 400)
    assert why in facts.unsupported
    assert (facts.width, facts.height, facts.pages) == (64, 48, ((64, 48),) * pages)
    with pytest.raises(ItemError, match=why) as caught:
        decode(data, 400)
    assert caught.value.reason == Reason.UNSUPPORTED_PIXELS
