"""What a picture file says about itself, read from its structure without decoding a pixel.

``inspect`` names format, size, depth, pages and why an image cannot be restored, if it cannot; the walkers below it
are also what metadata is carried with. Own code, since libvips hides what matters here: it expands palettes and low
bit depths, and reads a thousand-page file as one page. It knows neither pixel values nor what metadata means.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyvips

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason
from fdi_lib.storage import tiff

# libvips' settings for the whole process; every reader imports this file.
pyvips.cache_set_max(0)  # every image is read once: a cache would only hold memory
logging.getLogger("pyvips").setLevel(logging.ERROR)  # dozens of lines for a bad file, whose row says it in one
pyvips.block_untrusted_set(True)  # only loaders that libvips vouches for on hostile files

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# pyvips decodes libvips' messages as UTF-8, and a hostile file can have its own bytes quoted in one.
VIPS_ERRORS = (pyvips.Error, UnicodeDecodeError)
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*([0-9]{1,9})\s+([0-9]{1,9})\s")  # one way to match: never slow
_PNM_HEAD = 65_536  # bytes its header, comments included, may take
_JP2_MAGICS = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")

_SOF = {0xC0 + n for n in range(16)} - {0xC4, 0xC8, 0xCC}  # start of frame; C4, C8 and CC are other things
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_SOS, _EOI = 0xDA, 0xD9
_FILL = re.compile(rb"\xff+")
# Pieces of metadata before it is an attack: the smallest take 4 bytes of a file, and hundreds of ours.
_MAX_PIECES = 65_536


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image without decoding it.

    Args:
        format: jpeg | png | tiff, or another reader's name for images that are only ever copied.
        width: px, first page, as stored (orientation not applied).
        height: px.
        bands: channels, alpha included.
        bits: bits per channel.
        pages: (width, height) of every page, in file order.
        unsupported: why pixels of this kind are not restored, in words; "" when they are.
    """

    format: str
    width: int
    height: int
    bands: int
    bits: int
    pages: tuple[tuple[int, int], ...]
    unsupported: str = ""


class Piece(NamedTuple):
    """One JPEG segment or PNG chunk: marker or chunk name, its payload, and where the whole of it begins and ends."""

    name: int | bytes
    payload: bytes
    start: int
    end: int


def inspect(data: bytes, max_pixels_mp: float) -> ImageFacts:
    """Read the facts of one encoded image.

    Args:
        data: the whole file.
        max_pixels_mp: limit in megapixels for any one page.

    Raises:
        ItemError: EMPTY_FILE, NOT_AN_IMAGE, TRUNCATED (the structure ends early), TOO_LARGE, UNREADABLE.
    """
    if not data:
        raise ItemError(Reason.EMPTY_FILE)
    if data.startswith(b"\xff\xd8\xff"):
        facts = _jpeg_facts(data)
    elif data.startswith(PNG_SIGNATURE):
        facts = _png_facts(data)
    elif data.startswith(_TIFF_MAGICS):
        facts = _tiff_facts(data)
    elif data.startswith(_JP2_MAGICS):
        facts = _jp2_facts(data)
    elif data[14:18] in _BMP_HEADS and data.startswith(b"BM"):
        facts = _bmp_facts(data)
    elif pnm := _PNM.match(data, 0, _PNM_HEAD):
        facts = _plain_facts("pnm", int(pnm[1]), int(pnm[2]))
    else:
        facts = _other_facts(data)
    if min(min(size) for size in facts.pages) < 1:
        raise ItemError(Reason.UNREADABLE, f"a side of zero pixels: {facts.pages}")
    largest = max(width * height for width, height in facts.pages)
    if largest > max_pixels_mp * 1e6:
        raise ItemError(Reason.TOO_LARGE, f"{largest / 1e6:.1f} megapixels, the limit is {max_pixels_mp:g}")
    return facts


def jpeg_segments(data: bytes) -> Iterator[Piece]:
    """Yield the marker segments from SOI up to and with the first SOS, whose ``end`` is where entropy data begins.

    Raises:
        ItemError: TRUNCATED when the data ends before SOS; UNREADABLE when there is no marker where one must be, or
            when there are absurdly many.
    """
    at = 2
    for _ in range(_MAX_PIECES):
        fill = _FILL.match(data, at)
        if fill is None and at < len(data):
            raise ItemError(Reason.UNREADABLE, f"no JPEG marker at byte {at}")
        at = fill.end() - 1 if fill else at  # a marker's own FF may have any number of others before it
        if at + 4 > len(data):
            break
        marker = data[at + 1]
        if marker in _BARE:
            at += 2
        elif marker == _EOI:
            break
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if end > len(data):
                break
            yield Piece(marker, data[at + 4 : end], at, end)
            if marker == _SOS:
                return
            at = end
    else:
        raise ItemError(Reason.UNREADABLE, f"more than {_MAX_PIECES} JPEG segments before the image data")
    raise ItemError(Reason.TRUNCATED, "the JPEG file ends before its image data")


def png_chunks(data: bytes) -> Iterator[Piece]:
    """Yield every chunk of a PNG file, IEND last.

    Raises:
        ItemError: TRUNCATED when the data ends before IEND; UNREADABLE when there are absurdly many other chunks.
    """
    at, others = len(PNG_SIGNATURE), 0
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        name = data[at + 4 : at + 8]
        others += name != b"IDAT"
        if others > _MAX_PIECES:
            raise ItemError(Reason.UNREADABLE, f"more than {_MAX_PIECES} PNG chunks beside the image data")
        yield Piece(name, b"" if name == b"IDAT" else data[at + 8 : end - 4], at, end)  # IDAT can be gigabytes
        if name == b"IEND":
            return
        at = end
    raise ItemError(Reason.TRUNCATED, "the PNG file ends before its IEND chunk")


def _jpeg_facts(data: bytes) -> ImageFacts:
    frame, several = None, False
    for marker, payload, _, _ in jpeg_segments(data):
        if marker in _SOF and frame is None:
            frame = payload
        elif marker == 0xE2 and payload.startswith(b"MPF\0"):
            several = True
    if frame is None or len(frame) < 6:
        raise ItemError(Reason.UNREADABLE, "a JPEG file without a frame header")
    bits, height, width, bands = struct.unpack_from(">BHHB", frame)
    unsupported = (
        f"{bands} channels (CMYK)" if bands == 4
        else f"{bands} channels" if bands not in (1, 3)
        else f"{bits} bits" if bits != 8
        else "several pictures in one file (MPF)" if several
        else ""
    )  # fmt: skip
    return ImageFacts("jpeg", width, height, bands, bits, ((width, height),), unsupported)


def _png_facts(data: bytes) -> ImageFacts:
    chunks = {chunk.name: chunk for chunk in png_chunks(data)}
    if b"IHDR" not in chunks or len(chunks[b"IHDR"].payload) != 13:
        raise ItemError(Reason.UNREADABLE, "a PNG file without its header")
    width, height, bits, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"].payload)
    bands = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 0)
    unsupported = (
        "palette" if colour == 3
        else f"{bits} bits" if bits not in (8, 16)
        else f"colour type {colour}" if not bands
        else "animated" if b"acTL" in chunks
        else "one colour means transparent" if b"tRNS" in chunks
        else ""
    )  # fmt: skip
    return ImageFacts("png", width, height, bands, bits, ((width, height),), unsupported)


def _tiff_facts(data: bytes) -> ImageFacts:
    try:
        directories = tiff.read_directories(data)
    except tiff.TiffError as error:
        reason = Reason.TRUNCATED if error.cut else Reason.UNREADABLE
        raise ItemError(reason, f"TIFF: {error}") from error
    if any(_ends_early(directory, len(data)) for directory in directories):
        raise ItemError(Reason.TRUNCATED, "TIFF: image data lie past the end of the file")
    first, pages = directories[0], [(tiff.first_number(d, 256), tiff.first_number(d, 257)) for d in directories]
    bits, bands = (first[258].numbers if 258 in first else []) or [1], tiff.first_number(first, 277, 1)
    (width, height), photometric = pages[0], tiff.first_number(first, 262, -1)
    compression = tiff.first_number(first, 259, 1)
    extra = first[338].numbers if 338 in first else []
    colours = {0: 1, 1: 1, 2: 3, 6: 3}.get(photometric)
    unsupported = (
        f"{len(pages)} pages" if len(pages) > 1
        else "images inside the image (SubIFDs)" if 330 in first
        else "no photometric class" if photometric < 0
        else _PHOTOMETRIC.get(photometric, f"photometric class {photometric}") if colours is None
        else f"{bits[0]} bits" if set(bits) not in ({8}, {16})
        else "numbers that are not unsigned integers" if set(first[339].numbers if 339 in first else [1]) != {1}
        else f"compression {compression}" if compression not in TIFF_COMPRESSION
        else "YCbCr without JPEG compression" if photometric == 6 and compression != 7
        else f"{bands} channels" if bands - colours not in (0, 1) or bands - colours != len(extra)
        else "premultiplied alpha" if extra == [1]
        else "tiles of separate planes" if tiff.first_number(first, 284, 1) == 2 and 324 in first
        else ""
    )  # fmt: skip
    return ImageFacts("tiff", width, height, bands, bits[0], tuple(pages), unsupported)


def _ends_early(directory: tiff.Directory, length: int) -> bool:
    """Whether strips or tiles lie past the end, or the list of them does."""
    offsets, sizes = (
        next((directory[code].numbers for code in codes if code in directory), []) for codes in ((273, 324), (279, 325))
    )
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=False)] or offsets
    return not ends or max(ends) > length


# Compression schemes that are written as they were read: the tag's value -> libvips' name.
TIFF_COMPRESSION = {1: "none", 5: "lzw", 7: "jpeg", 8: "deflate", 32946: "deflate", 32773: "packbits"}
_PHOTOMETRIC = {3: "palette", 4: "mask", 5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "raw sensor data"}


def _jp2_facts(data: bytes) -> ImageFacts:
    """JPEG 2000 is only copied so far: the sizes come from the image header box, or from the codestream's SIZ."""
    box = data[:65_536].find(b"ihdr")
    try:
        if box >= 0:
            height, width, bands, bits = struct.unpack_from(">IIHB", data, box + 4)
            bits = (bits & 0x7F) + 1
        else:
            siz = data.index(b"\xff\x4f\xff\x51")
            right, bottom, left, top, bands, bits = struct.unpack_from(">IIII16xHB", data, siz + 8)
            width, height, bits = right - left, bottom - top, (bits & 0x7F) + 1
    except (struct.error, ValueError) as error:
        raise ItemError(Reason.TRUNCATED, "the JPEG 2000 file ends before its header does") from error
    return ImageFacts("jp2", width, height, bands, bits, ((width, height),), "JPEG 2000")


# Lengths of BMP's second header, of which the first kind has 16-bit sizes. Many a text begins with BM.
_BMP_HEADS = [length.to_bytes(4, "little") for length in (12, 16, 40, 52, 56, 64, 108, 124)]


def _bmp_facts(data: bytes) -> ImageFacts:
    if len(data) < 26:
        raise ItemError(Reason.TRUNCATED, "the BMP file ends inside its header")
    width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    return _plain_facts("bmp", abs(width), abs(height))  # negative: rows from top to bottom


def _plain_facts(name: str, width: int, height: int) -> ImageFacts:
    """BMP and PNM (PBM, PGM, PPM): their sizes stand in the header; they are never decoded here."""
    return ImageFacts(name, width, height, 3, 8, ((width, height),), name)


def _other_facts(data: bytes) -> ImageFacts:
    """GIF, WebP, HEIF and AVIF: known to libvips' header readers, never decoded here."""
    try:
        image = pyvips.Image.new_from_buffer(data, "", access="sequential")
    except VIPS_ERRORS as error:
        raise ItemError(Reason.NOT_AN_IMAGE, first_line(error)) from error
    name = image.get("vips-loader").removesuffix("_buffer").removesuffix("load")
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    bits, sizes = 16 if image.format == "ushort" else 8, ((image.width, image.height),) * pages
    kind = f"{name}, {pages} pages" if pages > 1 else name
    return ImageFacts(name, image.width, image.height, image.bands, bits, sizes, kind)


def first_line(error: Exception) -> str:
    """What libvips says, on one line and not too long."""
    return " ".join(str(error).split())[:300]
