"""Read and write pictures: JPEG, PNG and TIFF, 8 and 16 bit, grey and RGB, through libvips.

Reading is strict: a file whose end is missing is an error, never black rows. Writing keeps what the file was: size,
depth, channels, polarity, compression, ICC, resolution, orientation, EXIF, XMP. It knows nothing of storage, of
routes, or of what restoration does; orientation is neither applied nor removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyvips

from fdi_lib.errors import ItemError
from fdi_lib.manifest import ImageSettings
from fdi_lib.records import Reason
from fdi_lib.storage import metadata, tiff
from fdi_lib.storage.headers import TIFF_COMPRESSION, VIPS_ERRORS, ImageFacts, first_line, inspect
from fdi_lib.storage.provenance import Label, labelled_xmp

__all__ = ["DecodedImage", "ImageFacts", "decode", "encode", "inspect", "thumbnail"]

EXTENSIONS = {"jpeg": ".jpg", "png": ".png", "tiff": ".tiff"}
# Rec. 601 luma, as JPEG uses it. Its weights are the more even of the two customary sets, so that a grey scan,
# whose three restored channels are three estimates of one value, keeps less of the model's noise.


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One picture in memory.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8 or uint16, full range, in the file's own colour space, as stored
            (orientation not applied), larger is lighter (MinIsWhite is inverted).
        alpha: (H, W), dtype of ``pixels``; None when the file has none. Never restored.
        format: jpeg | png | tiff.
        width: px.
        height: px.
        bits: 8 | 16.
        source: the encoded file, from which ``encode`` carries metadata over.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    format: str
    width: int
    height: int
    bits: int
    source: bytes = field(repr=False)


def decode(data: bytes, max_pixels_mp: float) -> DecodedImage:
    """Decode one image file, strictly.

    Args:
        data: the whole file.
        max_pixels_mp: limit in megapixels, checked against the header before anything is decoded.

    Raises:
        ItemError: EMPTY_FILE, NOT_AN_IMAGE, TOO_LARGE, UNREADABLE; TRUNCATED (the end is missing, or the stream is
            broken); UNSUPPORTED_PIXELS for images that are copied, not restored (``inspect`` has their facts).
    """
    return decode_inspected(data, inspect(data, max_pixels_mp))


def decode_inspected(data: bytes, facts: ImageFacts) -> DecodedImage:
    """As :func:`decode`, of a file that ``inspect`` has been asked about already. Raises as that."""
    if facts.unsupported:
        raise ItemError(Reason.UNSUPPORTED_PIXELS, facts.unsupported)
    try:
        samples = _strict_samples(data, facts)
    except ItemError:
        # Strict means that a warning is an error, also one about metadata, such as a TIFF text without its final
        # NUL. Such files are common and whole: what counts is whether the bare picture reads without a warning.
        samples = _strict_samples(metadata.without_metadata(data, facts.format), facts)
    colours = facts.bands - 1 if facts.bands in (2, 4) else facts.bands
    pixels = samples[..., 0] if colours == 1 else samples[..., :3]
    alpha = samples[..., colours].copy() if colours < facts.bands else None
    return DecodedImage(np.ascontiguousarray(pixels), alpha, facts.format, facts.width, facts.height, facts.bits, data)


def _strict_samples(data: bytes, facts: ImageFacts) -> np.ndarray:
    """(H, W, C) samples of what the facts say, or an error."""
    try:
        image = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="warning")
    except VIPS_ERRORS as error:
        raise ItemError(Reason.UNREADABLE, first_line(error)) from error
    # Before anything is decoded: a file that two readers take for pictures of two sizes would get past the limit.
    found = (image.width, image.height, image.bands, image.format)
    expected = (facts.width, facts.height, facts.bands, "uchar" if facts.bits == 8 else "ushort")
    if found != expected:
        raise ItemError(Reason.UNREADABLE, f"decodes to {found}, the header says {expected}")
    try:
        return image.numpy().reshape(facts.height, facts.width, facts.bands)
    except VIPS_ERRORS as error:
        raise ItemError(Reason.TRUNCATED, f"the image data end early or are broken: {first_line(error)}") from error


def encode(original: DecodedImage, pixels: np.ndarray, settings: ImageSettings, label: Label) -> tuple[bytes, str]:
    """Encode restored pixels as the file that ``original`` was, with its metadata and a label saying what was done.

    The same arguments give the same bytes.

    Args:
        original: what ``decode`` returned.
        pixels: shape and dtype of ``original.pixels``.
        settings: target format (``same`` keeps the source's), and quality for JPEG.
        label: what the XMP packet will say of this derivative.

    Returns:
        The file's bytes, and the extension of a changed format (``.tiff``), or ``""`` when the format and so the
        name stay.

    Raises:
        ItemError: UNSUPPORTED_PIXELS, when a changed format cannot hold the image (alpha in JPEG);
            UNSUPPORTED_METADATA, when its metadata don't fit into it; UNREADABLE, when it cannot be written.
        ValueError: ``pixels`` don't match, or the format cannot be written.
    """
    if pixels.shape != original.pixels.shape or pixels.dtype != original.pixels.dtype:
        raise ValueError(f"{pixels.shape} {pixels.dtype} in place of {original.pixels.shape} {original.pixels.dtype}")
    target = original.format if settings.format == "same" else settings.format
    if target not in EXTENSIONS:
        raise ValueError(f"images of format {target!r} cannot be written")
    if target == "jpeg" and original.alpha is not None:
        raise ItemError(Reason.UNSUPPORTED_PIXELS, "JPEG has no alpha channel")
    if target == "jpeg" and original.bits == 16:
        pixels = np.rint(pixels / 257.0).astype(np.uint8)

    first = tiff.read_directories(original.source)[0] if original.format == target == "tiff" else {}
    if first and tiff.first_number(first, 262) == 0:  # MinIsWhite: stored dark side up, and tagged so by the transplant
        pixels = np.iinfo(pixels.dtype).max - pixels
    try:
        encoded = _encode_samples(_to_vips(pixels, original.alpha), target, settings.quality, original.source, first)
    except VIPS_ERRORS as error:
        raise ItemError(Reason.UNREADABLE, f"cannot be written: {first_line(error)}") from error
    xmp = labelled_xmp(metadata.read_xmp(original.source, original.format), label)
    data = metadata.transplant(original.source, original.format, encoded, target, xmp)
    return data, "" if target == original.format else EXTENSIONS[target]


def _to_vips(pixels: np.ndarray, alpha: np.ndarray | None) -> pyvips.Image:
    samples = pixels[..., None] if pixels.ndim == 2 else pixels
    kind = {(1, 8): "b-w", (3, 8): "srgb", (1, 16): "grey16", (3, 16): "rgb16"}
    interpretation = kind[samples.shape[2], samples.dtype.itemsize * 8]
    if alpha is not None:
        samples = np.concatenate([samples, alpha[..., None]], axis=2)
    return pyvips.Image.new_from_array(np.ascontiguousarray(samples)).copy(interpretation=interpretation)


def _encode_samples(image: pyvips.Image, format: str, quality: int, source: bytes, first: tiff.Directory) -> bytes:
    """Write the samples without metadata; ``first`` is the source's TIFF directory, or empty."""
    if format == "jpeg":
        return image.jpegsave_buffer(Q=quality, optimize_coding=True, subsample_mode="off", keep="none")
    if format == "png":
        return image.pngsave_buffer(compression=6, filter="up", keep="none")  # as small as all filters, faster
    options: dict[str, object] = {"compression": "deflate"}  # lossless, and read everywhere
    if first:
        options = {
            "compression": TIFF_COMPRESSION[tiff.first_number(first, 259, 1)],
            "bigtiff": tiff.read_header(source).big,
        }
        width, height = tiff.first_number(first, 322), tiff.first_number(first, 323)
        if width and height:
            options |= {"tile": True, "tile_width": width, "tile_height": height}
    return image.tiffsave_buffer(Q=quality, predictor="horizontal", keep="none", **options)


def thumbnail(data: bytes, max_px: int, max_pixels_mp: float) -> bytes:
    """Return a small sRGB JPEG of any image that libvips reads, upright, its longer side at most ``max_px``.

    For looking at only: 16-bit, CMYK and profiled images are converted.

    Args:
        data: the whole file.
        max_px: longest side of the result.
        max_pixels_mp: limit in megapixels, of the size that libvips will decode, whatever ``inspect`` found.

    Raises:
        ItemError: EMPTY_FILE; TOO_LARGE; UNREADABLE.
    """
    if not data:
        raise ItemError(Reason.EMPTY_FILE)
    try:
        whole = pyvips.Image.new_from_buffer(data, "", access="sequential")
        if whole.width * whole.height > max_pixels_mp * 1e6:
            raise ItemError(Reason.TOO_LARGE, f"{whole.width} x {whole.height} px, the limit is {max_pixels_mp:g} MP")
        image = pyvips.Image.thumbnail_buffer(data, max_px, height=max_px, size="down", output_profile="srgb")
        image = image.flatten(background=[255]) if image.hasalpha() else image
        return image.colourspace("srgb").cast("uchar").jpegsave_buffer(Q=80, keep="none")
    except VIPS_ERRORS as error:
        raise ItemError(Reason.UNREADABLE, first_line(error)) from error
