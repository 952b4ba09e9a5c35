"""Hostile TIFF files: cycles, absurd counts and offsets, strips that lie, directories that lie over one another."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pyvips
from PIL import Image

from fdi_lib.records import Reason
from fdi_lib.storage import tiff
from tests.hostile.cases import DECODED, HEIGHT, WIDTH, Case, case, deep, grey, honest, picture, pillow

SHORT, LONG, RATIONAL, LONG8 = 3, 4, 5, 16


class Field(tuple[int, int, int, int]):
    """Code, type, count, and value or offset, as they stand in a directory."""

    def __new__(cls, code: int, kind: int, count: int, value: int) -> Field:
        return super().__new__(cls, (code, kind, count, value))


def directory(fields: list[Field], following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", *field) for field in fields)
    return struct.pack("<H", len(fields)) + entries + struct.pack("<I", following)


def big_directory(fields: list[Field], following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHQQ", *field) for field in fields)
    return struct.pack("<Q", len(fields)) + entries + struct.pack("<Q", following)


BITS_AT = 8  # three shorts, 8 8 8
SAMPLES_AT = 16


def fields(**changed: tuple[int, int, int] | None) -> list[Field]:
    """The fields of the honest picture as one strip; each may be replaced (type, count, value) or left out."""
    size = WIDTH * HEIGHT * 3
    known = {
        "width": (256, SHORT, 1, WIDTH), "height": (257, SHORT, 1, HEIGHT), "bits": (258, SHORT, 3, BITS_AT),
        "compression": (259, SHORT, 1, 1), "photometric": (262, SHORT, 1, 2), "offsets": (273, LONG, 1, SAMPLES_AT),
        "bands": (277, SHORT, 1, 3), "rows": (278, SHORT, 1, HEIGHT), "sizes": (279, LONG, 1, size),
        "planes": (284, SHORT, 1, 1),
    }  # fmt: skip
    found = {name: (code, *(changed.get(name, rest) or rest)) for name, (code, *rest) in known.items()}
    return [Field(*found[name]) for name in known if not (name in changed and changed[name] is None)]


def file(entries: list[Field], samples: bytes | None = None, following: int = 0, more: bytes = b"") -> bytes:
    """A classic little-endian file: head, samples, one directory, and more behind it."""
    samples = picture().tobytes() if samples is None else samples
    body = struct.pack("<3HH", 8, 8, 8, 0) + samples + bytes(len(samples) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory(sorted(entries), following) + more


def place() -> int:
    """Where :func:`file` puts the directory of the honest picture."""
    return SAMPLES_AT + WIDTH * HEIGHT * 3


def cases() -> Iterator[Case]:
    yield case("hand-made.tif", file(fields()), DECODED)
    yield from _cycles()
    yield from _absurd()
    yield from _overlapping()
    yield from _strips()
    yield from _kinds()


def _cycles() -> Iterator[Case]:
    here, sound = place(), fields()
    behind = here + len(directory(sound))
    yield case("own-successor.tif", file(sound, following=here), Reason.UNREADABLE)
    two = file(sound, following=behind, more=directory(sound, here))
    yield case("two-in-a-circle.tif", two, Reason.UNREADABLE)
    yield case("chain-of-3000.tif", _chain(3_000), Reason.UNSUPPORTED_PIXELS)
    yield case("chain-of-70000.tif", _chain(70_000), Reason.UNREADABLE)
    for name, code in {"exif": tiff.EXIF, "gps": tiff.GPS, "subifd": 330}.items():
        pointer = Field(code, LONG, 1, here)
        outcome = Reason.UNSUPPORTED_PIXELS if code == 330 else DECODED
        yield case(f"{name}-points-to-its-own-directory.tif", file([*sound, pointer]), outcome)
        pointer, far = Field(code, LONG, 1, behind + 12), Field(code, LONG, 1, here)
        yield case(f"{name}-points-in-a-circle.tif", file([*sound, pointer], more=directory([far])), outcome)
    yield case("pointer-to-nowhere.tif", file([*sound, Field(tiff.EXIF, LONG, 1, 2**32 - 1)]), DECODED)


def _chain(length: int) -> bytes:
    """Pages of one pixel, all with the same strip; a page is 4 + 12 * 6 + 2 bytes."""
    page = [Field(256, SHORT, 1, 1), Field(257, SHORT, 1, 1), Field(258, SHORT, 1, 8), Field(262, SHORT, 1, 1),
            Field(273, LONG, 1, 8), Field(279, LONG, 1, 1)]  # fmt: skip
    each = len(directory(page))
    pages = (directory(page, 10 + (n + 1) * each if n + 1 < length else 0) for n in range(length))
    return struct.pack("<2sHIH", b"II", 42, 10, 0) + b"".join(pages)


def _absurd() -> Iterator[Case]:
    most = 2**32 - 1
    for name, width, height in (("million", 10**6, 10**6), ("four-billion", most, most), ("one-row", most, 1)):
        data = file(fields(width=(LONG, 1, width), height=(LONG, 1, height)))
        yield case(f"declared-{name}.tif", data, Reason.TOO_LARGE)
    yield case("declared-0x0.tif", file(fields(width=(LONG, 1, 0), height=(LONG, 1, 0))), Reason.UNREADABLE)
    yield case("without-size.tif", file(fields(width=None, height=None)), Reason.UNREADABLE)
    yield case("without-strips.tif", file(fields(offsets=None, sizes=None)), Reason.TRUNCATED)
    yield case("taller-than-its-strip.tif", file(fields(height=(LONG, 1, 6000), rows=(LONG, 1, 6000))),
               Reason.TRUNCATED)  # fmt: skip
    yield case("fewer-strips-than-rows-need.tif", file(fields(rows=(SHORT, 1, 8))), Reason.TRUNCATED, Reason.UNREADABLE)
    for name in ("offsets", "sizes", "bits"):
        outcomes = (Reason.TRUNCATED, Reason.UNREADABLE, Reason.UNSUPPORTED_PIXELS)
        yield case(f"count-of-{name}.tif", file(fields(**{name: (LONG, most, 8)})), *outcomes)
        yield case(f"place-of-{name}.tif", file(fields(**{name: (LONG, 3, most)})), *outcomes)
    yield case("offset-past-the-end.tif", file(fields(offsets=(LONG, 1, most))), Reason.TRUNCATED)
    yield case("strip-of-no-bytes.tif", file(fields(sizes=(LONG, 1, 0))), Reason.TRUNCATED, Reason.UNREADABLE)
    yield case("strip-at-0-of-no-bytes.tif", file(fields(sizes=(LONG, 1, 0), offsets=(LONG, 1, 0))),
               Reason.TRUNCATED, Reason.UNREADABLE)  # fmt: skip
    yield case("bands-65535.tif", file(fields(bands=(SHORT, 1, 65_535))), Reason.UNSUPPORTED_PIXELS)
    yield case("first-directory-past-the-end.tif", b"II*\0" + struct.pack("<I", most) + bytes(64), Reason.TRUNCATED)
    yield case("no-directory.tif", b"II*\0" + bytes(64), Reason.TRUNCATED, Reason.UNREADABLE)
    far = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**64 - 1) + bytes(64)
    yield case("big-first-directory-past-the-end.tif", far, Reason.TRUNCATED)
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    chained = big_directory([Field(256, SHORT, 1, 1), Field(273, LONG8, 1, 8)], 2**64 - 8)
    yield case("big-second-directory-past-the-end.tif", head + chained, Reason.TRUNCATED)
    yield case("big-count.tif", head + struct.pack("<Q", 2**64 - 1) + bytes(64), Reason.TRUNCATED)
    pointer = big_directory([Field(256, LONG8, 1, 2**64 - 1), Field(257, LONG8, 1, 1), Field(273, LONG8, 1, 8),
                             Field(tiff.EXIF, LONG8, 1, 2**63)])  # fmt: skip
    yield case("big-declared.tif", head + pointer, Reason.TOO_LARGE)
    yield case("order-turned.tif", b"MM\0*" + file(fields())[4:], Reason.TRUNCATED)
    resolution = [Field(282, RATIONAL, 1, 8), Field(283, RATIONAL, 1, 8)]  # the bytes there read 524296 / 8
    yield case("resolution-absurd.tif", file([*fields(), *resolution]), DECODED)


def _overlapping() -> Iterator[Case]:
    """A structure that says more than its bytes can: each would cost gigabytes, or hours, to one who believes it."""
    sound, size = fields(), 200_000
    many = [Field(code, 7, size, 8) for code in range(40_000, 60_000)]
    yield case("values-over-one-another.tif", file([*sound, *many], picture().tobytes() + bytes(size)),
               Reason.UNREADABLE)  # fmt: skip
    pointers = [Field(tiff.EXIF, LONG, 1, place())] * 30_000
    yield case("pointers-by-the-thousand.tif", file([*sound, *pointers]), Reason.UNREADABLE)
    # Ten-byte steps: each directory begins inside the one before it, and has 5,000 fields.
    step, count = 10, 5_000
    links = b"".join(struct.pack("<HII", count, 0, 0) for _ in range(20_000))
    data = bytearray(struct.pack("<2sHI", b"II", 42, 8) + links)
    for at in range(8, len(data) - 2 - count * 12 - 4, step):
        struct.pack_into("<I", data, at + 2 + count * 12, at + step)
    yield case("directories-over-one-another.tif", data, Reason.UNREADABLE, Reason.TRUNCATED)
    # Our reader takes the last of two equal fields, libtiff the first: what is decoded is what our reader has seen.
    twice = [Field(256, LONG, 1, 100_000), Field(257, LONG, 1, 100_000)]
    at = place()
    entries = b"".join(struct.pack("<HHII", *field) for field in [*twice, *sound])
    head = file(sound)[:at] + struct.pack("<H", len(sound) + 2) + entries + bytes(4)
    yield case("size-twice.tif", head, DECODED, Reason.UNREADABLE)


def _strips() -> Iterator[Case]:
    """Strips that inflate to more, or less, than their rows need."""
    samples, deflate = picture().tobytes(), (SHORT, 1, 8)
    for name, data, outcomes in (
        ("more-than-its-rows", zlib.compress(samples + bytes(80 << 20), 9), (DECODED, Reason.TRUNCATED)),
        ("less-than-its-rows", zlib.compress(samples[: len(samples) // 2], 9), (Reason.TRUNCATED,)),
        ("nothing", zlib.compress(b""), (Reason.TRUNCATED,)),
        ("noise", b"\x5a" * 500, (Reason.TRUNCATED,)),
    ):
        entries = fields(compression=deflate, sizes=(LONG, 1, len(data)))
        yield case(f"strip-of-{name}.tif", file(entries, data), *outcomes)
    zeros = zlib.compress(bytes(60_000 * 60_000 // 64), 9)
    tile = [Field(322, LONG, 1, 60_000), Field(323, LONG, 1, 60_000), Field(324, LONG, 1, SAMPLES_AT),
            Field(325, LONG, 1, len(zeros))]  # fmt: skip
    entries = [*fields(compression=deflate, offsets=None, sizes=None, rows=None), *tile]
    yield case("tile-of-60000.tif", file(entries, zeros), Reason.UNREADABLE, Reason.TRUNCATED)
    wide = [field for field in tile if field[0] != 322] + [Field(322, LONG, 1, 2**32 - 1)]
    entries = [*fields(compression=deflate, offsets=None, sizes=None, rows=None), *wide]
    yield case("tile-of-four-billion.tif", file(entries, zeros), Reason.UNREADABLE, Reason.TRUNCATED)


def _kinds() -> Iterator[Case]:
    image = Image.fromarray(picture())
    frames = {"save_all": True, "append_images": [image]}
    floats = pyvips.Image.new_from_array(grey().astype(np.float32))
    turned = io.BytesIO()
    Image.fromarray(grey()).convert("1").save(turned, "tiff", compression="group4")
    for name, data in {
        "one-bit": turned.getvalue(), "palette": pillow("tiff", image.convert("P")),
        "cmyk": pillow("tiff", image.convert("CMYK")), "float": floats.tiffsave_buffer(),
        "two-pages": pillow("tiff", image, **frames), "lab": pillow("tiff", Image.new("LAB", (WIDTH, HEIGHT))),
    }.items():  # fmt: skip
        yield case(f"{name}.tif", data, Reason.UNSUPPORTED_PIXELS)
    for number in (2, 3, 6, 34712, 34925, 50000, 50001, 65535):
        entries = fields(compression=(SHORT, 1, number))
        yield case(f"compression-{number}.tif", file(entries), Reason.UNSUPPORTED_PIXELS)
    yield case("one-pixel.tif", pyvips.Image.new_from_array(deep()[:1, :1]).tiffsave_buffer(), DECODED, altered=True)
    yield case("trailing-garbage.tif", honest()["lzw.tif"] + b"garbage" * 500, DECODED)
