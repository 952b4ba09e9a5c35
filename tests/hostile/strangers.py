"""Hostile files that are no JPEG, PNG or TIFF: other formats, no pictures at all, and what claims to be two things."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from fdi_lib.records import Reason
from tests.hostile.cases import DECODED, Case, case, honest, picture, pillow, vips
from tests.hostile.jpegs import segment, with_segments

_SVG = (
    b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="alert(1)">'
    b'<image href="file:///etc/passwd" width="9" height="9"/></svg>'
)


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as zipped:
        zipped.writestr(zipfile.ZipInfo("inner.png"), honest()["plain.png"])
    return sink.getvalue()


def cases() -> Iterator[Case]:
    yield from _not_pictures()
    yield from _both()
    yield from _copied()
    yield from _headers()


def _not_pictures() -> Iterator[Case]:
    for name in ("empty.jpg", "empty.png", "empty.tif", "empty.webp"):
        yield case(name, b"", Reason.EMPTY_FILE)
    program = b"\x7fELF" + bytes(200)
    for name, data in {
        "text": b"This is a note, named scan.png.\n" * 40,
        "text-of-bikes": b"BMX bikes, and how they are built. Chapter one, in which a wheel is trued.\n" * 20,
        "text-of-paths": b"P1 # " + b"# " * 4_000 + b"x",  # a pattern that backtracks would never come back
        "svg": _SVG, "svg-with-entities": b'<!DOCTYPE svg [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + _SVG,
        "html": b"<html><script>alert(1)</script></html>", "zip": archive(), "pdf": b"%PDF-1.7\n" + bytes(500),
        "postscript": b"%!PS-Adobe-3.0\n(%stdin) (r) file\n", "program": program, "zeros": bytes(4_000),
        "one-byte": b"\xff", "csv": b"1,2,3\n4,5,6\n", "vips": b"\xb6\xa6\xf2\x08" + bytes(200),
        "matlab": b"MATLAB 5.0 MAT-file" + bytes(200), "fits": b"SIMPLE  =                    T" + bytes(3_000),
        "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 9 +X 9\n" + bytes(400),
        "exr": b"\x76\x2f\x31\x01" + bytes(300),
        "heif-of-nothing": struct.pack(">I4s4sI4s", 24, b"ftyp", b"heic", 0, b"mif1") + bytes(90),
        "riff-of-nothing": b"RIFF\x20\0\0\0WEBPVP8 " + bytes(40), "gif-of-nothing": b"GIF89a",
    }.items():  # fmt: skip
        yield case(f"{name}-as.png", data, Reason.NOT_AN_IMAGE)


def _both() -> Iterator[Case]:
    """Two formats in one file: what it begins with counts."""
    jpeg, png, tif = (honest()[name] for name in ("baseline.jpg", "plain.png", "lzw.tif"))
    yield case("jpeg-and-zip.png", jpeg + archive(), DECODED)
    yield case("png-and-jpeg.jpg", png + jpeg, DECODED)
    yield case("tiff-and-page.jpg", tif + b"<script>alert(1)</script>", DECODED)
    yield case("jpeg-and-script.jpg", with_segments(segment(0xFE, b"*/=alert(1)/*")), DECODED)
    yield case("gif-and-script.gif", b"GIF89a/*" + bytes(20) + b"*/=alert(1)//;", *_COPIED_OR_NOT)
    yield case("webp-and-jpeg.jpg", vips(picture()).webpsave_buffer() + jpeg, Reason.UNSUPPORTED_PIXELS)
    yield case("png-named-jpg.jpg", png, DECODED)
    yield case("bytes-before-png.png", b"\n" + png, Reason.NOT_AN_IMAGE)
    yield case("order-mark-before-jpeg.jpg", b"\xef\xbb\xbf" + jpeg, Reason.NOT_AN_IMAGE)
    newlines = png.replace(b"\r\n", b"\n")  # what a text transfer does
    yield case("png-as-text.png", newlines, Reason.NOT_AN_IMAGE)


_COPIED_OR_NOT = (Reason.UNSUPPORTED_PIXELS, Reason.NOT_AN_IMAGE, Reason.TOO_LARGE, Reason.UNREADABLE)


def _copied() -> Iterator[Case]:
    """Formats that are only ever copied, sound and damaged."""
    image = Image.fromarray(picture())
    frames = [Image.fromarray(np.roll(picture(), n, axis=1)) for n in range(1, 40)]
    moving = {"save_all": True, "append_images": frames}
    sound = {
        "still.gif": pillow("gif", image), "moving.gif": pillow("gif", image, **moving),
        "still.webp": pillow("webp", image), "moving.webp": pillow("webp", image, **moving),
        "still.bmp": pillow("bmp", image), "still.ppm": pillow("ppm", image), "still.avif": pillow("avif", image),
    }  # fmt: skip
    for name, data in sound.items():
        yield case(name, data, Reason.UNSUPPORTED_PIXELS)
        yield case(f"cut-{name}", data[: len(data) // 2], *_COPIED_OR_NOT)
        yield case(f"cut-early-{name}", data[:20], *_COPIED_OR_NOT, Reason.TRUNCATED)
    gif = bytearray(sound["still.gif"])
    gif[6:10] = b"\xff\xff\xff\xff"
    yield case("declared-65535x65535.gif", gif, *_COPIED_OR_NOT)
    block = next(at for at in range(len(gif)) if gif[at] == 0x2C)
    gif[block + 5 : block + 9] = b"\xff\xff\xff\xff"
    yield case("frame-of-65535x65535.gif", gif, *_COPIED_OR_NOT)


def _headers() -> Iterator[Case]:
    """Headers alone, which is all that is ever read of these formats."""
    most = 2**32 - 1
    for width, height, reason in ((10**5, 10**5, Reason.TOO_LARGE), (0, 5, Reason.UNREADABLE)):
        bmp = b"BM" + struct.pack("<IHHIIii", 9000, 0, 0, 54, 40, width, height) + bytes(40)
        yield case(f"declared-{width}x{height}.bmp", bmp, reason)
        yield case(f"declared-{width}x{height}.ppm", b"P6\n%d %d\n255\n" % (width, height), reason)
        box = struct.pack(">I4sIIHB3x", 22, b"ihdr", height, width, 3, 7)
        yield case(f"declared-{width}x{height}.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + box, reason)
        siz = struct.pack(">HHHIIII16xHB", 0xFF51, 47, 0, width, height, 0, 0, 3, 7)
        yield case(f"declared-{width}x{height}.j2k", b"\xff\x4f" + siz + bytes(20), reason)
    yield case(
        "bmp-of-least-height.bmp", b"BM" + struct.pack("<IHHIIii", 9, 0, 0, 54, 40, 1, -(2**31)), Reason.TOO_LARGE
    )
    siz = struct.pack(">HHHIIII16xHB", 0xFF51, 47, 0, 5, 5, most, most, 3, 7)
    yield case("corner-past-corner.j2k", b"\xff\x4f" + siz, Reason.UNREADABLE)
    yield case("box-only.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", Reason.TRUNCATED)
