"""What a hostile file is, what may become of it, and the honest pictures that most of them are made from.

Everything is made from fixed seeds: the same corpus on every machine, as far as the encoders write the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyvips
from PIL import Image

from fdi_lib.records import Reason

WIDTH, HEIGHT = 64, 48  # px, of every picture here that is worth decoding
LIMIT_MP = 50.0  # megapixels: ``limits.max_pixels_mp`` of everything that reads the corpus

DECODED = "decoded"  # the outcome of a file that is read as a picture
# Outcomes that damage at an unknown place may have, and no others: not an empty file, nor anything about its name.
REFUSED = (Reason.NOT_AN_IMAGE, Reason.TRUNCATED, Reason.UNREADABLE, Reason.UNSUPPORTED_PIXELS, Reason.TOO_LARGE)


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Args:
        name: unique, with the extension it lies under (which need not be true).
        data: its bytes.
        outcomes: ``DECODED`` or reasons: what may become of it, one where that is certain.
        altered: its samples are not those of :func:`picture`, so that nobody can tell what it should look like.
    """

    name: str
    data: bytes
    outcomes: frozenset[str]
    altered: bool = False


def case(name: str, data: bytes, *outcomes: str, altered: bool = False) -> Case:
    return Case(name, bytes(data), frozenset(str(outcome) for outcome in outcomes), altered)


@cache
def picture() -> np.ndarray:
    """(48, 64, 3) uint8: a gradient with some grain, mean about 100: worth restoring for the fakes' classifier."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    shade = np.stack([y, x, (x + y) / 2], axis=2) * 80 + 60
    return np.rint(shade + np.random.default_rng(7).normal(0, 3, shade.shape)).astype(np.uint8)


def grey() -> np.ndarray:
    return picture()[..., 1].copy()


def deep() -> np.ndarray:
    return picture().astype(np.uint16) * 257


def vips(pixels: np.ndarray) -> pyvips.Image:
    kinds = {(2, 1): "b-w", (3, 1): "srgb", (2, 2): "grey16", (3, 2): "rgb16"}
    return pyvips.Image.new_from_array(pixels).copy(interpretation=kinds[pixels.ndim, pixels.dtype.itemsize])


def pillow(format: str, image: Image.Image | np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(stream, format, **options)
    return stream.getvalue()


@cache
def honest() -> dict[str, bytes]:
    """Whole files of the picture, by a name that ends with the extension."""
    rgb = vips(picture())
    tiles = {"tile": True, "tile_width": 32, "tile_height": 32}
    return {
        "baseline.jpg": rgb.jpegsave_buffer(Q=92, keep="none"),
        "progressive.jpg": rgb.jpegsave_buffer(Q=92, interlace=True, keep="none"),
        "grey.jpg": vips(grey()).jpegsave_buffer(Q=92, keep="none"),
        "plain.png": rgb.pngsave_buffer(keep="none"),
        "interlaced.png": rgb.pngsave_buffer(interlace=True, keep="none"),
        "deep.png": vips(deep()).pngsave_buffer(keep="none"),
        "plain.tif": rgb.tiffsave_buffer(keep="none"),
        "lzw.tif": rgb.tiffsave_buffer(compression="lzw", keep="none"),
        "tiles.tif": rgb.tiffsave_buffer(compression="deflate", keep="none", **tiles),
        "big.tif": vips(deep()).tiffsave_buffer(bigtiff=True, compression="lzw", keep="none"),
        "jpeg.tif": rgb.tiffsave_buffer(compression="jpeg", Q=92, keep="none"),
        "whole.jp2": pillow("jpeg2000", picture(), irreversible=False),
    }


def format_of(name: str) -> str:
    return name.rpartition(".")[2]


def damaged() -> Iterator[Case]:
    """Each honest file cut at several places, and with single bits turned in its head and in its body."""
    for name, data in honest().items():
        yield from _cut(name, data)
        yield from _turned(name, data)


def _cut(name: str, data: bytes) -> Iterable[Case]:
    # JPEG 2000 is never decoded, only copied: whether its end is there is not known.
    outcomes = {str(Reason.TRUNCATED), *([Reason.UNSUPPORTED_PIXELS] if format_of(name) == "jp2" else [])}
    for share in (0.1, 0.4, 0.7, 0.95):
        yield case(f"cut-{share * 100:02.0f}-{name}", data[: int(len(data) * share)], *outcomes)
    # The last byte of a TIFF file may belong to a resolution, say, and the picture be whole.
    yield case(f"cut-last-byte-{name}", data[:-1], *outcomes, *([DECODED] if format_of(name) == "tif" else []))


def _turned(name: str, data: bytes) -> Iterable[Case]:
    """A turned bit in compressed samples shows as a broken stream, or as other samples that no reader can tell."""
    kind, rng = format_of(name), np.random.default_rng(len(data))
    body = {
        "png": [Reason.TRUNCATED],  # every chunk has a checksum
        "jp2": [Reason.UNSUPPORTED_PIXELS],
    }.get(kind, [DECODED, Reason.TRUNCATED, Reason.UNREADABLE])
    for number in range(4):
        at = int(rng.integers(len(data) * 0.3, len(data) * 0.8))  # behind the head, before a directory at the end
        yield case(f"body-bit-{number}-{name}", _with_turned_bit(data, at, number), *body, altered=True)
    for number in range(3):
        head = int(rng.integers(2, 60)) if kind != "tif" else len(data) - int(rng.integers(4, 120))
        yield case(f"head-bit-{number}-{name}", _with_turned_bit(data, head, number), DECODED, *REFUSED, altered=True)


def _with_turned_bit(data: bytes, at: int, number: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << (number * 3 % 8)]) + data[at + 1 :]
