"""Pictures for the tests of image files: plain ones, some that carry everything, and some that no restoration takes."""

from __future__ import annotations

import io
import struct

import numpy as np
import pyvips
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from fdi_lib.manifest import ImageSettings
from fdi_lib.storage import tiff
from fdi_lib.storage.images import decode, encode
from fdi_lib.storage.provenance import Label

LABEL = Label("s3://archive/a.tif", "ab" * 32, "noise:1.00", "fdi-restore", "0.1.0", "2026-11-23T07:00:00Z")
SAME = ImageSettings()
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_ICC = ICC[:16] + b"GRAY" + ICC[20:]  # a grey scan's profile: the bytes matter here, not the curves
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="box 7"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
KINDS = [("jpeg", 8, 1), ("jpeg", 8, 3), *[(f, b, c) for f in ("png", "tiff") for b in (8, 16) for c in (1, 3)]]
SAVE = {"jpeg": "jpegsave_buffer", "png": "pngsave_buffer", "tiff": "tiffsave_buffer"}


def picture(bits: int = 8, channels: int = 3, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, full range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    base = np.stack([y, x, (x + y) / 2][:channels], axis=2) + rng.normal(0, 0.01, (height, width, channels))
    top = 255 if bits == 8 else 65535
    pixels = np.rint(np.clip(base, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)
    return pixels[..., 0] if channels == 1 else pixels


def vips(pixels: np.ndarray) -> pyvips.Image:
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    sixteen = pixels.dtype == np.uint16
    names = ("grey16", "rgb16") if sixteen else ("b-w", "srgb")
    return pyvips.Image.new_from_array(pixels).copy(interpretation=names[samples >= 3])


def bare(format: str, pixels: np.ndarray, **options: object) -> bytes:
    return getattr(vips(pixels), SAVE[format])(keep="none", **options)


def pillow(format: str, image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def rich(format: str, bits: int, channels: int) -> bytes:
    """A file with profile, resolution, EXIF (orientation 6, GPS) and XMP, made by other software than ours."""
    profile = ICC if channels == 3 else GREY_ICC
    exif = Image.Exif()
    exif.update({0x010F: "Acme", 0x0112: 6, 0x013B: "Hine"})
    exif.get_ifd(0x8769).update({0x9003: "1911:05:01 10:00:00", 0x829A: TiffImagePlugin.IFDRational(1, 125)})
    exif.get_ifd(0x8825).update({1: "N", 2: (40.0, 45.0, 10.0)})
    pixels = picture(bits, channels)
    if format == "tiff":  # Pillow doesn't write 48-bit: a chunk of TIFF that says everything, then libvips' pixels
        plain = bare("tiff", pixels, compression="lzw")
        tags = tiff.read_directories(plain)[0] | tiff.read_directories(exif.tobytes()[6:])[0]
        tags |= {
            700: tiff.Tag(1, XMP),
            34675: tiff.Tag(7, profile),
            282: tiff.Tag(5, struct.pack("<II", 3000, 10)),
            283: tiff.Tag(5, struct.pack("<II", 3000, 10)),
            296: tiff.Tag(3, struct.pack("<H", 2)),
            270: tiff.Tag(2, b"Fifth Avenue\0"),
            33723: tiff.Tag(7, b"\x1c\x02\x05\0\x04name"),
        }
        return tiff.replace_directory(plain, tags)
    if format == "png" and (bits, channels) == (16, 3):
        image = vips(pixels).copy()
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
        image.set_type(pyvips.GValue.blob_type, "exif-data", b"Exif\0\0" + exif.tobytes()[6:])
        image.set_type(pyvips.GValue.blob_type, "xmp-data", XMP)
        return image.copy(xres=300 / 25.4, yres=300 / 25.4).pngsave_buffer(keep="all")
    extra: dict[str, object] = {"xmp": XMP, "quality": 95}
    if format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Title", "Fifth Avenue")
        extra = {"pnginfo": info}
    return pillow(format, Image.fromarray(pixels), icc_profile=profile, dpi=(300, 300), exif=exif, **extra)


def reencode(data: bytes, settings: ImageSettings = SAME) -> bytes:
    """Decode, brighten a little as a stand-in for restoration, encode."""
    image = decode(data, 400)
    top = np.iinfo(image.pixels.dtype).max
    changed = np.rint(np.minimum(image.pixels * 1.02, top)).astype(image.pixels.dtype)
    return encode(image, changed, settings, LABEL)[0]


def exif_of(data: bytes) -> dict[int, object]:
    exif = Image.open(io.BytesIO(data)).getexif()
    tags = {0x010F: exif.get(0x010F), 0x0112: exif.get(0x0112), 0x013B: exif.get(0x013B)}
    return tags | dict(exif.get_ifd(0x8769)) | {f"gps{k}": v for k, v in exif.get_ifd(0x8825).items()}


def unsupported() -> dict[str, tuple[bytes, str, int]]:
    grey, rgb = Image.fromarray(picture(8, 1)), Image.fromarray(picture())
    frames = {"save_all": True, "append_images": [Image.fromarray(picture(seed=1))]}
    floats = pyvips.Image.new_from_array(picture(8, 1).astype(np.float32))
    return {
        "1-bit png": (pillow("png", grey.convert("1")), "1 bits", 1),
        "1-bit tiff": (pillow("tiff", grey.convert("1"), compression="group4"), "1 bits", 1),
        "palette png": (pillow("png", rgb.convert("P")), "palette", 1),
        "palette tiff": (pillow("tiff", rgb.convert("P")), "palette", 1),
        "cmyk jpeg": (pillow("jpeg", rgb.convert("CMYK")), "CMYK", 1),
        "cmyk tiff": (pillow("tiff", rgb.convert("CMYK")), "CMYK", 1),
        "lab tiff": (pillow("tiff", Image.new("LAB", (64, 48))), "CIELab", 1),
        "float tiff": (floats.tiffsave_buffer(), "32 bits", 1),
        "two pages": (pillow("tiff", rgb, **frames), "2 pages", 2),
        "animated png": (pillow("png", rgb, **frames), "animated", 1),
        "animated gif": (pillow("gif", rgb, **frames), "gif, 2 pages", 2),
        "colour key": (pillow("png", rgb, transparency=(1, 2, 3)), "transparent", 1),
        "webp": (vips(picture()).webpsave_buffer(), "webp", 1),
        "zstd tiff": (zstd_tiff(), "compression 50000", 1),
        "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20) + b"ihdr" + struct.pack(">IIHB", 48, 64, 3, 7),
                      "JPEG 2000", 1),
    }  # fmt: skip


def zstd_tiff() -> bytes:
    """libvips reads this as black rows without a word, where it lacks the codec."""
    plain = bare("tiff", picture())
    return tiff.replace_directory(plain, tiff.read_directories(plain)[0] | {259: tiff.Tag(3, struct.pack("<H", 50000))})
