"""Everything the product does with the bytes of one image, done to them, and its promises checked.

Either each reader works, or it raises an ``ItemError`` with a reason that is its to give; whatever else it raises is a
finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.errors import ItemError
from fdi_lib.manifest import ImageSettings
from fdi_lib.records import Reason
from fdi_lib.storage import tiff
from fdi_lib.storage.images import DecodedImage, decode, encode, inspect, thumbnail
from fdi_lib.storage.metadata import read_xmp
from fdi_lib.storage.provenance import DIGITAL_SOURCE_TYPE, Label
from fdi_lib.storage.shards import Member, RangeReader, Row
from tests.hostile.cases import DECODED, LIMIT_MP

_READING = {Reason.EMPTY_FILE, Reason.NOT_AN_IMAGE, Reason.TRUNCATED, Reason.UNREADABLE, Reason.TOO_LARGE}
_LABEL = Label("s3://archive/a.tif", "ab" * 32, "noise:1.00", "fdi-restore", "0.1.0", "2026-11-23T07:00:00Z")
_SPEC = ViewSpec(size_px=16, crops=1)
_JPEG_IN_TIFF = 7
_TARGETS = ("same", "jpeg", "png", "tiff")


def exercise(data: bytes, limit_mp: float = LIMIT_MP) -> str:
    """Return what became of an image's bytes: ``DECODED``, or a reason.

    Raises:
        AssertionError: a reader breaks its promise.
        Exception: what no reader may raise.
    """
    facts = None
    try:
        thumbnail(data, 32, limit_mp)
    except ItemError as error:
        assert error.reason in _READING, f"thumbnail: {error}"
    try:
        facts = inspect(data, limit_mp)
        image = decode(data, limit_mp)
    except ItemError as error:
        assert error.reason in _READING | {Reason.UNSUPPORTED_PIXELS}, error
        assert (facts is None) <= (error.reason != Reason.UNSUPPORTED_PIXELS), "copied, and yet without facts"
        return str(error.reason)
    assert image.pixels.shape[:2] == (facts.height, facts.width) and image.pixels.size > 0
    assert make_views(image.pixels, _SPEC).shape == (2, 16, 16, 3)
    for target in _TARGETS:
        _write(image, target)
    return DECODED


_WRITING = (Reason.UNSUPPORTED_PIXELS, Reason.UNSUPPORTED_METADATA, Reason.UNREADABLE)


def _write(image: DecodedImage, target: str) -> None:
    """Write the picture as a file of its own format or another: it can be read again, and says what was done."""
    try:
        result, _ = encode(image, image.pixels, ImageSettings(format=target), _LABEL)
    except ItemError as error:
        # alpha in JPEG; metadata that don't fit into the format; a side longer than the format's longest
        assert error.reason in _WRITING, f"encode: {error}"
        return
    again = decode(result, LIMIT_MP)
    assert again.pixels.shape == image.pixels.shape
    lossy = again.format == "jpeg" or (
        again.format == "tiff" and tiff.first_number(tiff.read_directories(result)[0], 259) == _JPEG_IN_TIFF
    )
    if not lossy:
        np.testing.assert_array_equal(again.pixels, image.pixels)
    assert DIGITAL_SOURCE_TYPE.encode() in read_xmp(result, again.format), "the label is missing"


class Held:
    """One object in memory, as far as a :class:`RangeReader` asks a store."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        assert offset >= 0 and (length is None or length >= 0)
        return self.data[offset:] if length is None else self.data[offset : offset + length]


def exercise_shard(data: bytes, read: Callable[[RangeReader], Iterator[Member | Row]]) -> str:
    """Return what became of a shard's bytes: ``DECODED`` if all of it was listed, or else the reason.

    Raises:
        AssertionError: a reader breaks its promise.
        Exception: what no reader may raise.
    """
    try:
        for item in read(RangeReader(Held(data), "shard", len(data))):  # type: ignore[arg-type]
            item.name.encode()  # can be stored
            if isinstance(item, Member) and not item.problem:
                assert 0 <= item.offset <= item.offset + item.length <= len(data), item
    except ItemError as error:
        assert error.reason == Reason.UNREADABLE, error
        return str(error.reason)
    return DECODED
