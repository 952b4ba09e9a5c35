"""Hostile PNG files: bombs, lying headers, broken chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pyvips
from PIL import Image

from fdi_lib.records import Reason
from fdi_lib.storage.headers import PNG_SIGNATURE, png_chunks
from tests.hostile.cases import DECODED, HEIGHT, WIDTH, Case, case, grey, honest, picture, pillow

ZEROS_BYTES = 80 << 20  # what a bomb inflates to


def chunk(name: bytes, payload: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(name + payload) if crc is None else crc
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", crc)


def header(width: int = WIDTH, height: int = HEIGHT, bits: int = 8, colour: int = 2, tail: bytes = bytes(3)) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, bits, colour) + tail)


def png(*chunks: bytes) -> bytes:
    return PNG_SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


def rows(pixels: np.ndarray) -> bytes:
    """Unfiltered scan lines."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def idat(data: bytes) -> bytes:
    return chunk(b"IDAT", zlib.compress(data, 9))


def with_chunks(*chunks: bytes) -> bytes:
    """The honest picture with more chunks behind its header."""
    return png(header(), *chunks, idat(rows(picture())))


def zeros_bomb(size: int = ZEROS_BYTES) -> bytes:
    """Zeros, compressed a thousandfold."""
    return zlib.compress(bytes(size), 9)


def cases() -> Iterator[Case]:
    yield from _lying_headers()
    yield from _bombs()
    yield from _chunks()
    yield from _kinds()


def _lying_headers() -> Iterator[Case]:
    body = idat(rows(picture()))
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**32 - 1), (60_000_000, 1)):
        yield case(f"declared-{width}x{height}.png", png(header(width, height), body), Reason.TOO_LARGE)
    for width, height in ((0, 48), (64, 0), (0, 0)):
        yield case(f"declared-{width}x{height}.png", png(header(width, height), body), Reason.UNREADABLE)
    yield case("taller-than-its-rows.png", png(header(WIDTH, 6000), body), Reason.TRUNCATED)
    yield case("fewer-rows-than-sent.png", png(header(WIDTH, 24), body), DECODED, Reason.TRUNCATED, altered=True)
    yield case("bits-3.png", png(header(bits=3), body), Reason.UNSUPPORTED_PIXELS)
    yield case("colour-type-7.png", png(header(colour=7), body), Reason.UNSUPPORTED_PIXELS)
    yield case("compression-9.png", png(header(tail=b"\x09\0\0"), body), Reason.UNREADABLE)
    yield case("interlace-9.png", png(header(tail=b"\0\0\x09"), body), Reason.UNREADABLE)
    yield case("header-short.png", png(chunk(b"IHDR", bytes(9)), body), Reason.UNREADABLE)
    yield case("header-twice.png", png(header(100_000, 50_000), header(), body), Reason.UNREADABLE, Reason.TOO_LARGE)
    yield case("header-last.png", png(body, header()), Reason.UNREADABLE)
    yield case("header-missing.png", png(body), Reason.UNREADABLE)
    yield case("signature-only.png", PNG_SIGNATURE, Reason.TRUNCATED)
    yield case("no-samples.png", png(header()), Reason.UNREADABLE, Reason.TRUNCATED)
    yield case("chunk-of-4-gib.png", PNG_SIGNATURE + header() + b"\xff\xff\xff\xffIDAT" + body, Reason.TRUNCATED)


def _bombs() -> Iterator[Case]:
    bomb = zeros_bomb()
    # The rows are there; what follows them is never inflated, or is refused.
    yield case("idat-bomb.png", png(header(), idat(rows(picture()) + bytes(ZEROS_BYTES))), DECODED, Reason.TRUNCATED)
    # Behind a header that declares too little for its size, a thousandfold is just a black picture, and too large.
    yield case("black-49-mp.png", png(header(7000, 7200, colour=0), chunk(b"IDAT", bomb)), Reason.TOO_LARGE)
    for name, payload in {
        "ztxt": chunk(b"zTXt", b"Comment\0\0" + bomb),
        "ztxt-xmp": chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + bomb),
        "iccp": chunk(b"iCCP", b"icc\0\0" + bomb),
        "itxt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        "itxt-xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        "exif": chunk(b"eXIf", b"II*\0\x08\0\0\0" + bytes(1 << 20)),
        "text": chunk(b"tEXt", b"Comment\0" + bytes(range(1, 256)) * 8000),
    }.items():
        yield case(f"{name}-bomb.png", with_chunks(payload), DECODED)
    yield case("ztxt-bombs-by-twenty.png", with_chunks(*[chunk(b"zTXt", b"C\0\0" + bomb)] * 20), DECODED)
    yield case("chunks-by-the-hundred-thousand.png", with_chunks(*[chunk(b"teXt", b"")] * 100_000), Reason.UNREADABLE)
    yield case("idat-by-the-byte.png", _idat_by_the_byte(), DECODED)


def _idat_by_the_byte() -> bytes:
    data = zlib.compress(rows(picture()))
    return png(header(), *(chunk(b"IDAT", data[at : at + 1]) for at in range(len(data))))


def _chunks() -> Iterator[Case]:
    body, sound = rows(picture()), honest()["plain.png"]
    packed = zlib.compress(body)
    broken = packed[:-4] + bytes(4)
    at = next(piece for piece in png_chunks(sound) if piece.name == b"IDAT").start
    yield case("crc-of-samples.png", sound[: at + 8] + b"\xff" + sound[at + 9 :], Reason.TRUNCATED)
    yield case("crc-of-header.png", sound[:29] + bytes(4) + sound[33:], Reason.UNREADABLE, Reason.TRUNCATED)
    yield case("crc-of-text.png", with_chunks(chunk(b"tEXt", b"Title\0Fifth Avenue", crc=1)), DECODED)
    yield case("crc-of-end.png", sound[:-4] + bytes(4), DECODED, Reason.TRUNCATED)
    yield case("checksum-of-stream.png", png(header(), chunk(b"IDAT", broken)), DECODED, Reason.TRUNCATED)
    yield case("stream-of-nothing.png", png(header(), chunk(b"IDAT", b"")), Reason.TRUNCATED, Reason.UNREADABLE)
    yield case("stream-of-noise.png", png(header(), chunk(b"IDAT", b"\x5a" * 4000)), Reason.TRUNCATED)
    yield case("rows-missing.png", png(header(), idat(body[: len(body) // 2])), Reason.TRUNCATED)
    yield case("filter-9.png", png(header(), idat(b"\x09" + body[1:])), Reason.TRUNCATED)
    yield case("unknown-critical.png", with_chunks(chunk(b"EVIL", b"?")), DECODED, Reason.UNREADABLE)
    yield case("trailing-garbage.png", sound + b"\0garbage" * 500, DECODED)
    yield case("trailing-zip.png", sound + b"PK\x03\x04" + bytes(64), DECODED)
    yield case("icc-of-noise.png", with_chunks(chunk(b"iCCP", b"icc\0\0" + b"\x99" * 300)), DECODED)
    yield case("physical-size-absurd.png", with_chunks(chunk(b"pHYs", b"\xff" * 8 + b"\1")), DECODED)
    yield case("text-without-keyword.png", with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0")), DECODED)


def _kinds() -> Iterator[Case]:
    """Pictures that are in order, of kinds that are only copied; and the smallest ones."""
    image = Image.fromarray(picture())
    frames = {"save_all": True, "append_images": [Image.fromarray(picture()[::-1])]}
    yield case("animated.png", pillow("png", image, **frames), Reason.UNSUPPORTED_PIXELS)
    yield case("palette.png", pillow("png", image.convert("P")), Reason.UNSUPPORTED_PIXELS)
    yield case("one-bit.png", pillow("png", image.convert("1")), Reason.UNSUPPORTED_PIXELS)
    yield case("colour-key.png", pillow("png", image, transparency=(1, 2, 3)), Reason.UNSUPPORTED_PIXELS)
    yield case("grey-alpha.png", pillow("png", Image.fromarray(grey()).convert("LA")), DECODED)
    for width, height in ((1, 1), (1, 64), (64, 1), (2, 2), (3, 5), (20_000, 1), (1, 20_000)):
        sample = np.resize(grey(), (height, width)).astype(np.uint8)
        yield case(f"tiny-{width}x{height}.png", pillow("png", sample), DECODED, altered=True)
    black = pyvips.Image.black(WIDTH, HEIGHT, bands=3)
    yield case("honestly-black.png", black.pngsave_buffer(), DECODED, altered=True)
