"""Image files opened in the sandbox: what a job, unlike a test or a trainer, reads pictures with.

The first half runs in the caller's process, the functions below it in the child. Does NOT know what a picture is for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.errors import ItemError
from fdi_lib.manifest import Limits
from fdi_lib.storage import images, sandbox
from fdi_lib.storage.headers import ImageFacts, inspect
from fdi_lib.storage.images import DecodedImage
from fdi_lib.storage.sandbox_child import Reply, allow_memory

# What a decode may take beyond what the process holds: the file some times over (metadata are cut off and read again),
# the samples in 16 bits several times over (libvips' copy, ours, and the views' 32-bit sums), and libvips' own buffers.
FILE_TIMES, SAMPLES_TIMES, BUFFERS_BYTES = 4, 8, 512 * 2**20


@dataclass(frozen=True)
class Look:
    """What is known of an image after looking at it.

    Args:
        width: px, first page, as stored; None where that could not be read.
        height: px.
        pages: (width, height) of every page.
        views: uint8 V,S,S,3 RGB; None with ``error``.
        error: why there are no views.
    """

    width: int | None
    height: int | None
    pages: list[tuple[int, int]]
    views: np.ndarray | None
    error: ItemError | None


class Decoder:
    """Opens image files in this process's sandbox.

    Args:
        limits: ``max_pixels_mp`` and ``timeout_s`` of one image.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def look(self, data: bytes, spec: ViewSpec) -> Look:
        """Read an image's size, decode it, and cut its views; never raises for what lies in ``data``."""
        try:
            told, arrays = self._call(_look, data, spec=asdict(spec))
        except ItemError as failure:
            return Look(None, None, [], None, failure)
        error = ItemError(*told["error"]) if told["error"] else None
        return Look(told["width"], told["height"], told["pages"], arrays[0] if arrays else None, error)

    def image(self, data: bytes) -> DecodedImage:
        """As :func:`fdi_lib.storage.images.decode`. Raises ItemError as that, and as :meth:`Sandbox.call`."""
        told, arrays = self._call(_image, data)
        return DecodedImage(arrays[0], arrays[1] if len(arrays) > 1 else None, **told, source=data)

    def thumbnail(self, data: bytes, max_px: int) -> bytes:
        """As :func:`fdi_lib.storage.images.thumbnail`, of images within the limits only. Raises ItemError."""
        _, (small,) = self._call(_thumbnail, data, max_px=max_px)
        return small.tobytes()

    def _call(self, function: Any, data: bytes, **settings: Any) -> Reply:
        limits = {"max_pixels_mp": self._limits.max_pixels_mp}
        return sandbox.shared().call(function, data, self._limits.timeout_s, **limits, **settings)


def _look(data: bytes, max_pixels_mp: float, spec: dict[str, Any]) -> Reply:
    facts: dict[str, Any] = {"width": None, "height": None, "pages": [], "error": None}
    try:
        found = _inspected(data, max_pixels_mp)
        facts |= {"width": found.width, "height": found.height, "pages": found.pages}
        return facts, [make_views(images.decode_inspected(data, found).pixels, ViewSpec(**spec))]
    except ItemError as error:
        return facts | {"error": [error.reason, error.detail]}, []


def _image(data: bytes, max_pixels_mp: float) -> Reply:
    image = images.decode_inspected(data, _inspected(data, max_pixels_mp))
    names = ("format", "width", "height", "bits")
    arrays = [image.pixels] if image.alpha is None else [image.pixels, image.alpha]
    return {name: getattr(image, name) for name in names}, arrays


def _thumbnail(data: bytes, max_pixels_mp: float, max_px: int) -> Reply:
    _inspected(data, max_pixels_mp)
    return {}, [np.frombuffer(images.thumbnail(data, max_px, max_pixels_mp), np.uint8)]


def _inspected(data: bytes, max_pixels_mp: float) -> ImageFacts:
    """Read the header with little memory, then allow what an image of its size may take."""
    allow_memory(FILE_TIMES * len(data) + BUFFERS_BYTES)
    facts = inspect(data, max_pixels_mp)
    samples = max(width * height for width, height in facts.pages) * facts.bands
    allow_memory(FILE_TIMES * len(data) + SAMPLES_TIMES * samples * max(1, facts.bits // 8) + BUFFERS_BYTES)
    return facts
