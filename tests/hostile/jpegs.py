"""Hostile JPEG files: lying frames, too many scans, several pictures in one file, broken segments."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from fdi_lib.records import Reason
from fdi_lib.storage.headers import jpeg_segments
from tests.hostile.cases import DECODED, HEIGHT, Case, case, grey, honest, picture, pillow

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def with_segments(*segments: bytes, name: str = "baseline.jpg") -> bytes:
    """An honest picture with more segments behind its first marker."""
    return SOI + b"".join(segments) + honest()[name][2:]


def with_frame(**fields: int) -> bytes:
    """The honest picture with another size, depth or number of components in its frame header."""
    data = bytearray(honest()["baseline.jpg"])
    at = next(piece.start for piece in jpeg_segments(bytes(data)) if piece.name == 0xC0) + 4
    places = {"bits": (">B", 0), "height": (">H", 1), "width": (">H", 3), "bands": (">B", 5), "sampling": (">B", 7)}
    for field, value in fields.items():
        struct.pack_into(places[field][0], data, at + places[field][1], value)
    return bytes(data)


def cases() -> Iterator[Case]:
    yield from _lying_frames()
    yield from _segments()
    yield from _several()
    yield from _kinds()


def _lying_frames() -> Iterator[Case]:
    for width, height in ((65_500, 65_500), (65_535, 65_535), (65_535, 1_000)):
        yield case(f"declared-{width}x{height}.jpg", with_frame(width=width, height=height), Reason.TOO_LARGE)
    yield case("declared-0x48.jpg", with_frame(width=0), Reason.UNREADABLE)
    yield case("declared-64x0.jpg", with_frame(height=0), Reason.UNREADABLE)
    yield case("taller-than-its-scan.jpg", with_frame(height=3_000), Reason.TRUNCATED)
    yield case("shorter-than-its-scan.jpg", with_frame(height=HEIGHT // 2), DECODED, Reason.TRUNCATED, altered=True)
    yield case("bits-12.jpg", with_frame(bits=12), Reason.UNSUPPORTED_PIXELS)
    yield case("bits-0.jpg", with_frame(bits=0), Reason.UNSUPPORTED_PIXELS)
    for bands in (0, 2, 4, 255):
        yield case(f"components-{bands}.jpg", with_frame(bands=bands), Reason.UNSUPPORTED_PIXELS)
    yield case("components-1.jpg", with_frame(bands=1), Reason.UNREADABLE, Reason.TRUNCATED)
    yield case("sampling-0.jpg", with_frame(sampling=0), Reason.UNREADABLE)
    yield case("sampling-15x15.jpg", with_frame(sampling=0xFF), Reason.UNREADABLE)
    data = honest()["baseline.jpg"]
    for name, marker in {"lossless": 0xC3, "differential": 0xC5}.items():
        yield case(f"frame-{name}.jpg", data.replace(b"\xff\xc0", bytes([0xFF, marker])),
                   Reason.TRUNCATED, Reason.UNREADABLE)  # fmt: skip
    # An arithmetic decoder takes any bits for a picture.
    yield case("frame-arithmetic.jpg", data.replace(b"\xff\xc0", b"\xff\xc9"), DECODED, Reason.TRUNCATED, altered=True)


def _segments() -> Iterator[Case]:
    data = honest()["baseline.jpg"]
    pieces = {int(piece.name): piece for piece in jpeg_segments(data)}
    for name, marker in {"quantization": 0xDB, "huffman": 0xC4, "frame": 0xC0}.items():
        without = b"".join(data[p.start : p.end] for p in jpeg_segments(data) if p.name != marker)
        # Without Huffman tables the standard's own ones count, which are those of this file.
        outcomes = (DECODED,) if name == "huffman" else (Reason.UNREADABLE, Reason.TRUNCATED)
        yield case(f"without-{name}.jpg", SOI + without + data[pieces[0xDA].end :], *outcomes)
    yield case("start-only.jpg", b"\xff\xd8\xff", Reason.TRUNCATED)
    yield case("start-and-end.jpg", SOI + EOI + bytes(8), Reason.TRUNCATED, Reason.NOT_AN_IMAGE)
    yield case("end-before-scan.jpg", SOI + segment(0xFE, b"x") + EOI + bytes(8), Reason.TRUNCATED)
    yield case("segment-of-no-length.jpg", SOI + b"\xff\xe1\0\0" + data[2:], Reason.UNREADABLE, Reason.TRUNCATED)
    yield case("no-marker.jpg", SOI + segment(0xFE, b"x") + bytes(200), Reason.UNREADABLE)
    yield case("fill-bytes-by-the-million.jpg", SOI + b"\xff" * 2_000_000 + data[2:], DECODED, Reason.UNREADABLE)
    yield case("segments-by-the-hundred-thousand.jpg", with_segments(*[segment(0xE5, b"")] * 100_000),
               Reason.UNREADABLE)  # fmt: skip
    yield case("comments.jpg", with_segments(*[segment(0xFE, b"<script>alert(1)</script>")] * 300), DECODED)
    yield case("restart-markers.jpg", SOI + b"\xff\xd0" * 64 + data[2:], DECODED, Reason.UNREADABLE, Reason.TRUNCATED)
    yield case("restart-interval.jpg", with_segments(segment(0xDD, b"\0\1")), Reason.TRUNCATED)
    yield case("tables-of-noise.jpg", with_segments(segment(0xC4, b"\xff" * 40)), Reason.UNREADABLE, Reason.TRUNCATED)
    yield case("multi-picture.jpg", with_segments(segment(0xE2, b"MPF\0" + bytes(40))), Reason.UNSUPPORTED_PIXELS)


def _several() -> Iterator[Case]:
    data = honest()["baseline.jpg"]
    at = next(piece.end for piece in jpeg_segments(data) if piece.name == 0xDA)
    frame = next(data[p.start : p.end] for p in jpeg_segments(data) if p.name == 0xC0)
    yield case("two-pictures.jpg", data + honest()["progressive.jpg"], DECODED)
    yield case("picture-in-the-scan.jpg", data[: at + 400] + data + data[at + 400 :], Reason.TRUNCATED)
    yield case("start-twice.jpg", SOI + data, DECODED, Reason.UNREADABLE)
    yield case("frame-twice.jpg", with_segments(frame), Reason.UNREADABLE)
    yield case("frame-small-then-large.jpg", with_segments(frame[:5] + b"\xff\xff\xff\xff" + frame[9:]),
               Reason.TOO_LARGE)  # fmt: skip
    yield case("picture-in-exif.jpg", with_segments(segment(0xE1, b"Exif\0\0" + data)), DECODED)
    yield case("end-in-the-scan.jpg", data[: at + 500] + EOI, Reason.TRUNCATED)
    yield case("end-missing.jpg", data[:-2], Reason.TRUNCATED)
    yield case("zeros-in-the-scan.jpg", data[: at + 300] + bytes(len(data) - at - 302) + EOI,
               DECODED, Reason.TRUNCATED, altered=True)  # fmt: skip
    yield case("trailing-garbage.jpg", data + b"\xff\x00garbage" * 500, DECODED)
    yield case("trailing-page.jpg", data + b"<html><script>alert(1)</script></html>", DECODED)
    for count in (200, 5_000):
        yield case(f"scans-{count}.jpg", scans(count), Reason.TRUNCATED, Reason.UNREADABLE)


def scans(count: int) -> bytes:
    """A progressive file that says the same thing again and again: little to store, a whole picture to work on."""
    data = honest()["progressive.jpg"]
    first = next(piece for piece in jpeg_segments(data) if piece.name == 0xDA)
    end = data.index(b"\xff\xc4", first.end)  # the second scan begins with its tables
    return data[:end] + data[first.start : end] * count + data[end:]


def _kinds() -> Iterator[Case]:
    image = Image.fromarray(picture())
    yield case("cmyk.jpg", pillow("jpeg", image.convert("CMYK")), Reason.UNSUPPORTED_PIXELS)
    yield case("grey-whole.jpg", honest()["grey.jpg"], DECODED)
    for width, height in ((1, 1), (1, 40), (40, 1), (7, 9)):
        sample = np.resize(grey(), (height, width)).astype(np.uint8)
        yield case(f"tiny-{width}x{height}.jpg", pillow("jpeg", sample, quality=95), DECODED, altered=True)
