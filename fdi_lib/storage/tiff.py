"""TIFF directories (IFDs): read from bytes, written to bytes. EXIF blocks are the same structure.

Classic and BigTIFF, both byte orders; tag values are held in little-endian order. It knows where a tag's value lies,
and nothing of what tags mean beyond the few that point to other directories, nor of pixels.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

# Bytes of one value, and of the unit that byte order applies to (a rational is two 4-byte numbers), by field type.
_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_UNIT = {**_SIZE, 5: 4, 10: 4}
_INTEGERS = {1: "u1", 3: "<u2", 4: "<u4", 13: "<u4", 16: "<u8", 18: "<u8"}
_LONG, _LONG8, _UNDEFINED = 4, 16, 7

EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965  # tags whose value is the offset of another directory
IPTC = 33723
_POINTERS = (EXIF, GPS, INTEROPERABILITY)
_MAX_DIRECTORIES = 65_536  # a chain longer than this is an attack
_MAX_TAGS = 4_096  # in one directory: libtiff's limit
_SHARED_BYTES = 2**20  # what directories may say again of the same bytes: pages share a profile, say


class TiffError(ValueError):
    """The bytes break TIFF's structure: an offset out of bounds, a cycle, a bad header.

    Args:
        problem: what is wrong.
        cut: whether it is as if the end of the file were missing.
    """

    def __init__(self, problem: str, *, cut: bool = False) -> None:
        super().__init__(problem)
        self.cut = cut


class Tag(NamedTuple):
    """One field: TIFF type, value bytes in little-endian order, and the directory it points to, if it does."""

    kind: int
    value: bytes
    directory: dict[int, Tag] | None = None

    @property
    def numbers(self) -> list[int]:
        """The values of an unsigned integer field; empty for other types."""
        dtype = _INTEGERS.get(self.kind)
        return np.frombuffer(self.value, dtype).tolist() if dtype else []


Directory = dict[int, Tag]


class Header(NamedTuple):
    """Byte order (``<`` or ``>``), whether offsets have 8 bytes (BigTIFF), and where the first directory is."""

    order: str
    big: bool
    first: int


def read_header(data: bytes) -> Header:
    """Read the first bytes of a file or of an EXIF block.

    Raises:
        TiffError: not a TIFF header, or cut off.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise TiffError("no TIFF header", cut=True)
    magic, offset = struct.unpack_from(f"{order}2xHI", data)
    if magic == 42:
        return Header(order, False, offset)
    if magic == 43 and len(data) >= 16:
        return Header(order, True, struct.unpack_from(f"{order}8xQ", data)[0])
    raise TiffError("no TIFF header", cut=True)


class _Room:
    """How much directories and values may still say: no more than there are bytes to say it.

    Both may lie over one another, so that a file of kilobytes could hold terabytes of values, or days of fields.
    """

    def __init__(self, length: int) -> None:
        self._left = length + _SHARED_BYTES

    def take(self, length: int) -> None:
        """Count what is about to be read."""
        self._left -= length
        if self._left < 0:
            raise TiffError("directories and values that lie over one another")


def read_directories(data: bytes) -> list[Directory]:
    """Return the chain of directories, in file order, with EXIF, GPS and Interoperability followed.

    Raises:
        TiffError: an offset lies outside the data, the chain is a cycle, or all of it says more than the data hold.
    """
    header, room = read_header(data), _Room(len(data))
    found: list[Directory] = []
    seen: set[int] = set()
    offset = header.first
    while offset:
        if offset in seen or len(seen) >= _MAX_DIRECTORIES:
            raise TiffError("the chain of directories is a cycle")
        seen.add(offset)
        directory, offset = _read_directory(data, header, offset, room, depth=0)
        found.append(directory)
    if not found:
        raise TiffError("no directory", cut=True)
    return found


def _read_directory(data: bytes, header: Header, offset: int, room: _Room, depth: int) -> tuple[Directory, int]:
    order, big, _ = header
    head, entry, slot = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    start, width = offset + struct.calcsize(order + head), struct.calcsize(order + entry) + slot
    if start > len(data):
        raise TiffError(f"a directory lies past the end, at byte {offset}", cut=True)
    (count,) = struct.unpack_from(order + head, data, offset)
    if start + count * width + slot > len(data):
        raise TiffError(f"a directory of {count} tags runs past the end", cut=True)
    if count > _MAX_TAGS:
        raise TiffError(f"a directory of {count} tags")
    (following,) = struct.unpack_from(order + "IQ"[big], data, start + count * width)
    room.take(count * width)
    tags: Directory = {}
    for at in range(start, start + count * width, width):
        code, kind, n = struct.unpack_from(order + entry, data, at)
        length, place = n * _SIZE.get(kind, 0), at + width - slot
        if length > slot:
            (place,) = struct.unpack_from(order + "IQ"[big], data, place)
        if not length or place + length > len(data):
            continue  # an unknown type, or a value that is not there: nothing that could be carried over
        if length > slot:
            room.take(length)
        value = data[place : place + length]
        if code == IPTC:  # often typed LONG, yet it is a string of bytes in any byte order
            kind = _UNDEFINED
        elif order == ">":
            value = _turned(kind, value)
        tag = Tag(kind, value)
        if code in _POINTERS:
            if depth == 2 or not tag.numbers:
                continue  # its number means nothing elsewhere
            try:
                tag = tag._replace(directory=_read_directory(data, header, tag.numbers[0], room, depth + 1)[0])
            except TiffError as error:
                if not error.cut:
                    raise
                continue  # a dangling pointer
        tags[code] = tag
    return tags, following


def _turned(kind: int, value: bytes) -> bytes:
    """The same values in the other byte order."""
    return value if _UNIT[kind] == 1 else np.frombuffer(value, f"u{_UNIT[kind]}").byteswap().tobytes()


def first_number(tags: Directory, code: int, default: int = 0) -> int:
    """Return the first value of an integer field, or the default where there is none."""
    numbers = tags[code].numbers if code in tags else []
    return numbers[0] if numbers else default


def write_directory(tags: Directory, at: int, *, big: bool, order: str = "<") -> tuple[bytes, int]:
    """Serialise one directory, and those below it, to be placed at file offset ``at``.

    Args:
        tags: what to write.
        at: offset of the returned bytes in the file; even.
        big: BigTIFF.
        order: byte order of the file, ``<`` or ``>``.

    Returns:
        The bytes (values first, then the directory, which ends the chain) and the file offset of the directory.
    """
    entry, offset_of, slot = (f"{order}HHQ", f"{order}Q", 8) if big else (f"{order}HHI", f"{order}I", 4)
    body, entries = bytearray(), []
    for code, (kind, value, directory) in sorted(tags.items()):
        if directory is not None:
            block, offset = write_directory(directory, at + len(body), big=big, order=order)
            body += block
            kind, value = _LONG8 if big else _LONG, struct.pack(offset_of, offset)
        elif order == ">":
            value = _turned(kind, value)
        head = struct.pack(entry, code, kind, len(value) // _SIZE[kind])
        if len(value) > slot:
            offset = at + len(body)
            body += value + bytes(len(value) % 2)
            value = struct.pack(offset_of, offset)
        entries.append(head + value.ljust(slot, b"\0"))
    start = at + len(body)
    body += struct.pack(order + "HQ"[big], len(entries)) + b"".join(entries) + bytes(slot)
    return bytes(body + bytes(len(body) % 2)), start


def write_block(tags: Directory) -> bytes:
    """Return a complete little-endian TIFF structure with one directory and no image: an EXIF block."""
    body, offset = write_directory(tags, 8, big=False)
    return struct.pack("<2sHI", b"II", 42, offset) + body


def replace_directory(data: bytes, tags: Directory) -> bytes:
    """Append a directory to a TIFF file and make it the file's first and only one.

    Raises:
        TiffError: it does not fit: a classic file ends at 4 GiB.
    """
    header = read_header(data)
    padding = len(data) % 2
    try:
        block, offset = write_directory(tags, len(data) + padding, big=header.big, order=header.order)
    except struct.error as error:
        raise TiffError(f"the directory does not fit into the file: {error}") from error
    pointer = struct.pack(header.order + "IQ"[header.big], offset)
    return b"".join([data[: 8 if header.big else 4], pointer, data[16 if header.big else 8 :], bytes(padding), block])
