"""TIFF directories: what is written is read back, and damage is an error of its own kind."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdi_lib.storage import tiff
from fdi_lib.storage.tiff import Tag

EXIF = {33434: Tag(5, struct.pack("<II", 1, 125)), 37500: Tag(7, b"maker note" * 9),
        tiff.INTEROPERABILITY: Tag(4, b"\0\0\0\0", {1: Tag(2, b"R98\0")})}  # fmt: skip
TAGS = {270: Tag(2, b"a plate\0"), 274: Tag(3, struct.pack("<H", 6)), tiff.EXIF: Tag(4, b"\0\0\0\0", EXIF),
        tiff.GPS: Tag(4, b"\0\0\0\0", {1: Tag(2, b"N\0")})}  # fmt: skip


def values(tags: tiff.Directory) -> dict[int, object]:
    """Everything but where sub-directories happen to lie."""
    return {code: values(tag.directory) if tag.directory is not None else (tag.kind, tag.value)
            for code, tag in tags.items()}  # fmt: skip


@pytest.mark.parametrize("big", [False, True])
def test_nested_directories_survive(big: bool) -> None:
    head = 16 if big else 8
    block, at = tiff.write_directory(TAGS, head, big=big)
    start = struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if big else struct.pack("<2sHI", b"II", 42, at)
    (directory,) = tiff.read_directories(start + block)
    assert values(directory) == values(TAGS)


def test_an_exif_block_is_a_tiff_without_an_image() -> None:
    assert values(tiff.read_directories(tiff.write_block(TAGS))[0]) == values(TAGS)


def test_big_endian_values_are_turned_and_iptc_is_not() -> None:
    entries = struct.pack(">HHII", 258, 3, 3, 50) + struct.pack(">HHII", 33723, 4, 2, 56)
    data = struct.pack(">2sHIH", b"MM", 42, 8, 2) + entries + bytes(4)
    data = data.ljust(50, b"\0") + struct.pack(">HHH", 8, 8, 16) + b"\x1c\x02\x05\0\x02hi\0"
    (directory,) = tiff.read_directories(data)
    assert directory[258].numbers == [8, 8, 16]
    assert directory[33723] == Tag(7, b"\x1c\x02\x05\0\x02hi\0")  # typed LONG, yet a string of bytes


def test_values_that_are_not_there_are_left_out() -> None:
    block = bytearray(tiff.write_block({270: Tag(2, b"long enough to lie outside\0"), 274: Tag(3, b"\1\0")}))
    struct.pack_into("<I", block, len(block) - 4 - 24 + 8, 10**6)
    assert list(tiff.read_directories(bytes(block))[0]) == [274]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_damage_is_a_tiff_error(length: int, changes: list[tuple[int, int]]) -> None:
    block = bytearray(tiff.write_block(TAGS))
    for at, value in changes:
        block[at % len(block)] = value
    try:
        tiff.read_directories(bytes(block[:length]))
    except tiff.TiffError as error:
        assert str(error)
