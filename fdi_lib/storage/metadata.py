"""Carry metadata from a picture file to the one that was made from it.

Within a format, metadata are transplanted byte for byte (segments, chunks, tags), since libvips rewrites EXIF, loses
PNG's colour chunks and drops most TIFF tags. Between formats, ICC, EXIF, XMP and resolution are translated. What
describes the encoding itself comes from the encoder. It knows neither pixels nor what the XMP packet says.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason
from fdi_lib.storage import tiff
from fdi_lib.storage.headers import PNG_SIGNATURE, jpeg_segments, png_chunks

_EXIF_HEAD = b"Exif\0\0"
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_HEAD = b"ICC_PROFILE\0"
_XMP_KEY = b"XML:com.adobe.xmp\0"
_APP0, _APP1, _APP2, _APP11, _APP14, _COM = 0xE0, 0xE1, 0xE2, 0xEB, 0xEE, 0xFE
_SEGMENT_MAX = 65_533  # payload of a JPEG segment
_MAX_INFLATED = 16 << 20  # a packet or profile that inflates to more is an attack
_MAX_PER_INCH = 2.0**17  # no scanner gets near, and every format has room for it

# PNG says "unsafe to copy" of chunks that depend on the pixels. These do so only through depth, channels and colour
# space, which stay the same. (caBX, a C2PA manifest, stays behind: it would not validate any more.)
_PNG_KEPT = {b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"bKGD", b"tIME"}

_XMP, _ICC, _ORIENTATION, _EXTRA_SAMPLES, _PHOTOMETRIC = 700, 34675, 274, 338, 262
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_BYTE, _SHORT, _RATIONAL, _UNDEFINED = 1, 3, 5, 7  # field types
# TIFF tags that describe how the pixels are laid out: always the encoder's.
_TIFF_LAYOUT = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 347,
                *range(512, 522), 529, 530, 531, 532}  # fmt: skip
# Never carried: statistics and layers of the old pixels, free space, other directories, C2PA manifests.
_TIFF_LEFT = {_XMP, 280, 281, 288, 289, 330, 340, 341, 400, 37724, 52545}
# What an EXIF block takes from a TIFF's own directory.
_EXIF_TAGS = {270, 271, 272, _ORIENTATION, 282, 283, 296, 305, 306, 315, 316, 33432, *range(40091, 40096),
              tiff.EXIF, tiff.GPS}  # fmt: skip


class Portable(NamedTuple):
    """What can be said in every format.

    Args:
        icc: the profile's bytes; empty for none.
        exif: a TIFF structure, as EXIF blocks are, without JPEG's six-byte head; empty for none.
        per_inch: horizontal and vertical resolution in pixels per inch; None when the file doesn't say.
    """

    icc: bytes
    exif: bytes
    per_inch: tuple[float, float] | None


def read_xmp(data: bytes, format: str) -> bytes:
    """Return the XMP packet of a jpeg, png or tiff file, or nothing."""
    if format == "jpeg":
        for marker, payload, _, _ in jpeg_segments(data):
            if marker == _APP1 and payload.startswith(_XMP_HEAD):
                return payload[len(_XMP_HEAD) :]
    elif format == "png":
        for name, payload, _, _ in png_chunks(data):
            if _is_png_xmp(name, payload):
                return _png_text(name, payload[len(_XMP_KEY) :])
    else:
        first = tiff.read_directories(data)[0]
        return first[_XMP].value if _XMP in first else b""
    return b""


def without_metadata(data: bytes, format: str) -> bytes:
    """Return the same picture with nothing but what decoding its samples needs."""
    if format == "jpeg":
        pieces = list(jpeg_segments(data))
        needed = [s for s in pieces if s.name in (_APP0, _APP14) or not _is_metadata(int(s.name))]
        return b"".join([data[:2], *(data[s.start : s.end] for s in needed), data[pieces[-1].end :]])
    if format == "png":
        return PNG_SIGNATURE + b"".join(data[c.start : c.end] for c in png_chunks(data) if _is_critical(c.name))
    return _with_directory(data, _layout(tiff.read_directories(data)[0]))


def _is_metadata(marker: int) -> bool:
    return _APP0 <= marker <= 0xEF or marker == _COM


def _is_critical(name: int | bytes) -> bool:
    return not bytes(name)[0] & 0x20 if isinstance(name, bytes) else False


def _layout(directory: tiff.Directory) -> tiff.Directory:
    return {code: tag for code, tag in directory.items() if code in _TIFF_LAYOUT or code == _EXTRA_SAMPLES}


def transplant(source: bytes, source_format: str, encoded: bytes, format: str, xmp: bytes) -> bytes:
    """Give a freshly encoded file the metadata of the file it was made from.

    Args:
        source: the original file, of format ``source_format``.
        source_format: jpeg | png | tiff.
        encoded: the new file, as the encoder wrote it without metadata.
        format: jpeg | png | tiff, the format of ``encoded``.
        xmp: the packet that the result carries in place of the source's.

    Raises:
        ItemError: UNSUPPORTED_METADATA, when XMP, EXIF or ICC don't fit into a JPEG file, or a directory into a TIFF.
    """
    same, portable = source_format == format, None if source_format == format else read_portable(source, source_format)
    if format == "jpeg":
        return _join_jpeg(_jpeg_carried(source) if portable is None else _jpeg_built(portable), encoded, xmp)
    if format == "png":
        return _join_png(_png_carried(source) if portable is None else _png_built(portable), encoded, xmp)
    carried = tiff.read_directories(source)[0] if portable is None else _tiff_built(portable)
    return _join_tiff(carried, encoded, xmp, keep_polarity=same)


def read_portable(data: bytes, format: str) -> Portable:
    """Read what every format can say. Text chunks, comments, IPTC-IIM and Photoshop blocks are not part of it."""
    icc = exif = b""
    if format == "jpeg":
        segments = [(s.name, s.payload) for s in jpeg_segments(data)]
        exif = next((p for n, p in segments if n == _APP1 and p.startswith(_EXIF_HEAD)), b"")[len(_EXIF_HEAD) :]
        parts = [p[len(_ICC_HEAD) :] for n, p in segments if n == _APP2 and p.startswith(_ICC_HEAD)]
        icc = b"".join(part[2:] for part in sorted(parts))  # the first byte is the part's number
    elif format == "png":
        chunks = {c.name: c.payload for c in png_chunks(data)}
        exif = chunks.get(b"eXIf", b"")
        icc = _inflated(chunks.get(b"iCCP", b"").partition(b"\0")[2][1:])
    else:
        first = tiff.read_directories(data)[0]
        exif = tiff.write_block({code: tag for code, tag in first.items() if code in _EXIF_TAGS})
        icc = first[_ICC].value if _ICC in first else b""
    per_inch = _per_inch(data, format, exif)
    if per_inch and not all(0 < value <= _MAX_PER_INCH for value in per_inch):
        per_inch = None  # nonsense
    return Portable(icc, exif, per_inch)


def _per_inch(data: bytes, format: str, exif: bytes) -> tuple[float, float] | None:
    if format == "png":
        payload = next((p for name, p, _, _ in png_chunks(data) if name == b"pHYs" and len(p) == 9), b"")
        x, y, unit = struct.unpack(">IIB", payload) if payload else (0, 0, 0)
        return (x * 0.0254, y * 0.0254) if unit == 1 else None
    if format == "jpeg":
        for marker, payload, _, _ in jpeg_segments(data):
            if marker == _APP0 and payload[:5] == b"JFIF\0" and len(payload) >= 12 and payload[7] in (1, 2):
                scale = 1.0 if payload[7] == 1 else 2.54
                x, y = struct.unpack_from(">HH", payload, 8)
                return x * scale, y * scale
    tags = _exif_directory(exif)
    if any(code not in tags or tags[code].kind != _RATIONAL for code in (_X_RESOLUTION, _Y_RESOLUTION)):
        return None
    (a, b), (c, d) = (struct.unpack_from("<II", tags[code].value) for code in (_X_RESOLUTION, _Y_RESOLUTION))
    scale = {2: 1.0, 3: 2.54}.get(tiff.first_number(tags, _RESOLUTION_UNIT, 2), 0.0)  # TIFF's default: inch
    return (a / b * scale, c / d * scale) if b and d and scale else None


def _exif_directory(exif: bytes) -> tiff.Directory:
    try:
        return tiff.read_directories(exif)[0] if exif else {}
    except tiff.TiffError:
        return {}  # a broken block says nothing


def _is_png_xmp(name: int | bytes, payload: bytes) -> bool:
    """The standard says iTXt; libvips writes zTXt."""
    return name in (b"iTXt", b"zTXt", b"tEXt") and payload.startswith(_XMP_KEY)


def _png_text(name: int | bytes, rest: bytes) -> bytes:
    """Text of a chunk after its keyword; nothing if it does not inflate."""
    compressed = name == b"zTXt"  # method, text
    if name == b"iTXt":  # flag, method, language, translated keyword, text
        compressed, fields = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
        rest = fields[2] if len(fields) == 3 else b""
    elif compressed:
        rest = rest[1:]
    return _inflated(rest) if compressed else rest


def _inflated(data: bytes) -> bytes:
    """What is compressed in a chunk; nothing where that is broken or cut, or a bomb."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, _MAX_INFLATED)
    except zlib.error:
        return b""
    return found if stream.eof else b""


# --- JPEG ---------------------------------------------------------------------------------------------------------


def _jpeg_carried(source: bytes) -> list[tuple[int, bytes]]:
    def carried(marker: int, payload: bytes) -> bool:
        return (
            _is_metadata(marker)
            and marker != _APP14  # Adobe's colour transform: the encoder's business
            and not (marker == _APP1 and payload.startswith(_XMP_HEAD))
            and not (marker == _APP11 and payload.startswith(b"JP"))  # C2PA
        )

    return [(int(s.name), s.payload) for s in jpeg_segments(source) if carried(int(s.name), s.payload)]


def _jpeg_built(portable: Portable) -> list[tuple[int, bytes]]:
    x, y = (min(max(round(v), 1), 65_535) for v in portable.per_inch or (1, 1))
    segments = [(_APP0, b"JFIF\0" + struct.pack(">HBHHBB", 0x0101, portable.per_inch is not None, x, y, 0, 0))]
    if portable.exif:
        segments.append((_APP1, _EXIF_HEAD + portable.exif))
    size = _SEGMENT_MAX - len(_ICC_HEAD) - 2
    if len(portable.icc) > 255 * size:
        raise _too_large("ICC profile", len(portable.icc))
    parts = [portable.icc[at : at + size] for at in range(0, len(portable.icc), size)]
    return segments + [(_APP2, _ICC_HEAD + bytes([n + 1, len(parts)]) + part) for n, part in enumerate(parts)]


def _too_large(what: str, size: int) -> ItemError:
    said = f"the {what} of {size} bytes does not fit into a JPEG file"
    return ItemError(Reason.UNSUPPORTED_METADATA, f"{said}; a run with output.image.format: tiff or png has room")


def _join_jpeg(carried: list[tuple[int, bytes]], encoded: bytes, xmp: bytes) -> bytes:
    parts = [b"\xff\xd8"]
    for marker, payload in [*carried, (_APP1, _XMP_HEAD + xmp)]:
        if len(payload) > _SEGMENT_MAX:
            raise _too_large("XMP packet" if payload.startswith(_XMP_HEAD) else "EXIF block", len(payload))
        parts.append(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload)
    own = [s for s in jpeg_segments(encoded) if s.name == _APP14 or not _is_metadata(int(s.name))]
    parts += [encoded[s.start : s.end] for s in own]
    return b"".join([*parts, encoded[own[-1].end :]])


# --- PNG ----------------------------------------------------------------------------------------------------------


def _png_carried(source: bytes) -> list[tuple[bytes, bytes]]:
    def carried(name: bytes, payload: bytes) -> bool:
        safe_to_copy = bool(name[3] & 0x20)
        return not _is_critical(name) and (safe_to_copy or name in _PNG_KEPT) and not _is_png_xmp(name, payload)

    return [(bytes(c.name), c.payload) for c in png_chunks(source) if carried(bytes(c.name), c.payload)]


def _png_built(portable: Portable) -> list[tuple[bytes, bytes]]:
    chunks = []
    if portable.icc:
        chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(portable.icc, 9)))
    if portable.per_inch:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(v / 0.0254) for v in portable.per_inch), 1)))
    if portable.exif:
        chunks.append((b"eXIf", portable.exif))
    return chunks


def _join_png(carried: list[tuple[bytes, bytes]], encoded: bytes, xmp: bytes) -> bytes:
    chunks = [*carried, (b"iTXt", _XMP_KEY + bytes(4) + xmp)]
    own = [c for c in png_chunks(encoded) if _is_critical(c.name)]  # critical chunks
    added = [
        struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
        for name, payload in chunks
    ]
    header, *rest = (encoded[c.start : c.end] for c in own)
    return b"".join([PNG_SIGNATURE, header, *added, *rest])  # colour chunks must precede the image data


# --- TIFF ---------------------------------------------------------------------------------------------------------


def _tiff_built(portable: Portable) -> tiff.Directory:
    tags = dict(_exif_directory(portable.exif))
    if portable.icc:
        tags[_ICC] = tiff.Tag(_UNDEFINED, portable.icc)
    if portable.per_inch:
        x, y = (struct.pack("<II", round(v * 10_000), 10_000) for v in portable.per_inch)
        tags |= {_X_RESOLUTION: tiff.Tag(_RATIONAL, x), _Y_RESOLUTION: tiff.Tag(_RATIONAL, y),
                 _RESOLUTION_UNIT: tiff.Tag(_SHORT, struct.pack("<H", 2))}  # fmt: skip
    return tags


def _join_tiff(carried: tiff.Directory, encoded: bytes, xmp: bytes, *, keep_polarity: bool) -> bytes:
    tags = _layout(tiff.read_directories(encoded)[0])
    tags |= {code: tag for code, tag in carried.items() if code not in _TIFF_LAYOUT and code not in _TIFF_LEFT}
    if (
        keep_polarity and tiff.first_number(carried, _PHOTOMETRIC) == 0
    ):  # MinIsWhite: the caller has inverted the samples
        tags[_PHOTOMETRIC] = carried[_PHOTOMETRIC]
    tags[_XMP] = tiff.Tag(_BYTE, xmp)
    return _with_directory(encoded, tags)


def _with_directory(data: bytes, tags: tiff.Directory) -> bytes:
    try:
        return tiff.replace_directory(data, tags)
    except tiff.TiffError as error:
        raise ItemError(Reason.UNSUPPORTED_METADATA, f"TIFF: {error}; output.image.format: png has room") from error
