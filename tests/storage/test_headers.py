"""Walkers over JPEG segments and PNG chunks; ``inspect`` itself is tested with the images."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from fdi_lib.errors import ItemError
from fdi_lib.storage.headers import inspect, jpeg_segments, png_chunks

IMAGE = pyvips.Image.new_from_array((np.arange(3072) % 251).astype(np.uint8).reshape(32, 32, 3))
FILES = {"jpeg": IMAGE.jpegsave_buffer(), "png": IMAGE.pngsave_buffer(), "tiff": IMAGE.tiffsave_buffer()}


def test_segments_tile_the_file_up_to_the_scan() -> None:
    pieces = list(jpeg_segments(FILES["jpeg"]))
    assert pieces[0].start == 2 and pieces[-1].name == 0xDA
    assert all(a.end == b.start for a, b in pairwise(pieces))


def test_chunks_tile_the_file() -> None:
    pieces = list(png_chunks(FILES["png"] + b"appended"))
    assert (pieces[0].name, pieces[-1].name) == (b"IHDR", b"IEND")
    assert pieces[-1].end == len(FILES["png"])
    assert all(a.end == b.start for a, b in pairwise(pieces))


@pytest.mark.parametrize("format", FILES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_headers_give_facts_or_an_item_error(format: str, data: st.DataObject) -> None:
    damaged = bytearray(FILES[format])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = inspect(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), 400)
    except ItemError as error:
        assert error.reason
    else:
        assert facts.width > 0 and facts.height > 0


@pytest.mark.parametrize(
    ("data", "kind", "size"),
    [
        (
            b"BM" + bytes(12) + struct.pack("<iii", 40, 7, -5) + bytes(30),
            "bmp",
            (7, 5),
        ),
        (b"P6\n# made by hand\n3 2\n255\n" + bytes(18), "pnm", (3, 2)),
    ],
)
def test_bmp_and_pnm_are_known_and_never_restored(data, kind, size):
    facts = inspect(data, 1)
    assert (facts.format, facts.pages, facts.unsupported) == (kind, (size,), kind)
