"""Hostile shards: tars and Parquet files, each with what must become of its images, and of the shard itself."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from fdi_lib.records import Reason
from tests.hostile.cases import DECODED, honest
from tests.hostile.strangers import archive

BLOCK = 512


@dataclass(frozen=True)
class Shard:
    """One shard.

    Args:
        path: below the source.
        data: its bytes.
        images: outcomes by image id, for images whose id is certain.
        unsafe: how many images must fail for their names; their ids are made of hashes.
    """

    path: str
    data: bytes
    images: dict[str, frozenset[str]] = field(default_factory=dict)
    unsafe: int = 0


def broken(path: str, data: bytes, *decoded: str, **members: str) -> Shard:
    """A shard of which only the named members can be had; one row stands for the rest."""
    found = whole(path, data, **dict.fromkeys(decoded, DECODED), **members).images
    return Shard(path, data, found | {path: frozenset({str(Reason.UNREADABLE)})})


def whole(path: str, data: bytes, **members: str) -> Shard:
    return Shard(path, data, {f"{path}/{name}": frozenset({str(outcome)}) for name, outcome in members.items()})


def member(name: str, data: bytes | None = None, kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """Header and data of one tar member; ``size`` may lie."""
    data = (honest()["plain.png"] if data is None else data) if kind == tarfile.REGTYPE else data or b""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    info.linkname = "../../../etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape") + data + bytes(-len(data) % BLOCK)


def tar(*parts: bytes) -> bytes:
    return b"".join(parts) + bytes(2 * BLOCK)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE, size: int | None = None) -> bytes:
    """An extended header with these bytes as its records; ``size`` may lie."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(records) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """One record: its length, in digits that count themselves, and ``key=value``."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def shards() -> Iterator[Shard]:
    yield from _tars()
    yield from _broken_tars()
    yield from _pax_tars()
    yield from _parquets()


def _tars() -> Iterator[Shard]:
    """Tars that are in order, with members that are not."""
    links = [member(f"{n}.png", kind=kind) for n, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE))]
    others = [member(f"d{n}.png", kind=kind) for n, kind in
              enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))]  # fmt: skip
    unreadable, decoded = Reason.UNREADABLE, DECODED
    yield whole("t/links.tar", tar(*links, *others, member("a.png")),
                **{"0.png": unreadable, "1.png": unreadable, "a.png": decoded})  # fmt: skip
    yield whole("t/same.tar", tar(*[member("a.png")] * 3, member("./a.png"), member("A.png")),
                **dict.fromkeys(("a.png", "a~2.png", "a~3.png", "a~4.png", "A.png"), decoded))  # fmt: skip
    yield whole("t/empty.tar", tar())
    yield whole("t/nothing-inside.tar", tar(member("a.png", b"")), **{"a.png": Reason.EMPTY_FILE})
    yield whole("t/sparse.tar", tar(_sparse("s.png", 2**36), member("a.png")),
                **{"s.png": unreadable, "a.png": decoded})  # fmt: skip
    yield whole("t/shard-in-shard.tar", tar(member("inner.tar", tar(member("x.png"))), member("inner.png", tar())),
                **{"inner.png": Reason.NOT_AN_IMAGE})  # fmt: skip


def _sparse(name: str, size: int, extended: bool = False) -> bytes:
    """An old GNU sparse file of one block that claims to be ``size`` bytes long."""
    block = bytearray(member(name, bytes(BLOCK)))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386:410] = b"%011o\0%011o\0" % (0, BLOCK)
    block[482] = extended
    block[483:495] = b"\x80" + size.to_bytes(11, "big")
    return _summed(block)


def _summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:BLOCK])
    return bytes(block)


def _broken_tars() -> Iterator[Shard]:
    first = member("a.png")
    yield broken("b/cut.tar", tar(first, member("b.png"))[: len(first) + BLOCK + 300], "a.png")
    yield broken("b/cut-in-header.tar", tar(first, member("b.png"))[: len(first) + 200], "a.png")
    yield broken("b/no-end.tar", first, "a.png")
    yield broken("b/nothing.tar", b"")
    yield broken("b/zip.tar", archive())
    yield broken("b/png.tar", honest()["plain.png"])
    yield broken("b/noise.tar", b"\x5a" * 9_000)
    yield broken("b/size-too-large.tar", tar(first, member("b.png", size=2**33 - 1)), "a.png")
    yield broken("b/size-of-base-256.tar", tar(first, _with_size(b"\x80" + b"\xff" * 11)), "a.png")
    yield broken("b/size-negative.tar", tar(first, _with_size(b"\xff" * 12)), "a.png")
    yield broken("b/size-of-text.tar", tar(first, _with_size(b"elephants.\0 ")), "a.png")
    yield broken("b/checksum.tar", tar(first, member("b.png")[:148] + b"000000\0 " + member("b.png")[156:]), "a.png")
    yield broken("b/sparse-without-end.tar", first + _sparse("s.png", 2**36, extended=True)[:BLOCK], "a.png")
    small = tar(member("a.png", size=100))  # what lies behind is no header
    yield broken("b/size-too-small.tar", small, **{"a.png": Reason.TRUNCATED})


def _with_size(field: bytes) -> bytes:
    block = bytearray(member("b.png", b""))
    block[124:136] = field
    return _summed(block)


def _pax_tars() -> Iterator[Shard]:
    first = member("a.png")
    long_name = pax(b"x" * 3_000_000, kind=tarfile.GNUTYPE_LONGNAME)
    yield broken("p/header-of-3-mb.tar", tar(first, long_name, member("b.png")), "a.png")
    yield broken("p/header-of-8-gib.tar", tar(first, pax(b"", size=2**33 - 1), bytes(2**21)), "a.png")
    yield broken("p/headers-by-the-thousand.tar", tar(first, *[pax(record(b"comment", b"x"))] * 5_000), "a.png")
    yield broken("p/names-by-the-thousand.tar",
                 tar(first, *[pax(b"n.png\0", kind=tarfile.GNUTYPE_LONGNAME)] * 5_000), "a.png")  # fmt: skip
    keys = (b"".join(record(b"k%d" % (n * 10_000 + k), b"v") for k in range(10_000)) for n in range(4))
    yield broken("p/keys-by-the-thousand.tar",
                 tar(first, *(pax(each, kind=tarfile.XGLTYPE) for each in keys), member("b.png")), "a.png")  # fmt: skip
    yield broken("p/digits.tar", tar(first, pax(b"1" * 200_000), member("b.png")), "a.png")
    # Read as a member of no bytes.
    yield broken("p/size-text.tar", tar(pax(record(b"size", b"x")), member("b.png")), **{"b.png": Reason.EMPTY_FILE})
    for name, value in {"negative": b"-5000", "absurd": b"9" * 20, "of-5000-digits": b"9" * 5_000}.items():
        yield broken(f"p/size-{name}.tar", tar(first, pax(record(b"size", value)), member("b.png")), "a.png")
    sparse = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
    for name, content in {"text": b"many\n", "missing": b"999999999\n1\n"}.items():
        yield broken(f"p/sparse-map-{name}.tar", tar(first, pax(sparse), member("b.png", content)), "a.png")


def rows_table(names: Sequence[object] | None, images: Sequence[bytes | None], column: str = "image") -> pa.Table:
    columns: dict[str, object] = {column: pa.array(images, pa.binary())}
    return pa.table(columns if names is None else {"key": names, **columns})


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _parquets() -> Iterator[Shard]:
    picture = honest()["plain.png"]
    sound = parquet(rows_table(["a.png", "b.png"], [picture, picture]))
    yield whole("q/rows.parquet", parquet(rows_table(["a.png", "b", "c.png"], [picture, None, b""])),
                **{"a.png": DECODED, "b": Reason.MISSING_SOURCE, "c.png": Reason.EMPTY_FILE})  # fmt: skip
    struct = pa.array(
        [{"bytes": picture, "path": "s.png"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    yield whole("q/struct.parquet", parquet(pa.table({"image": struct})),
                **{"s.png": DECODED, "00000001": Reason.MISSING_SOURCE})  # fmt: skip
    yield whole("q/no-rows.parquet", parquet(rows_table([], [])))
    yield whole("q/numbers.parquet", parquet(rows_table([7, 7], [picture, b"text"])),
                **{"7": DECODED, "7~2": Reason.NOT_AN_IMAGE})  # fmt: skip
    for name, data in {
        "cut": sound[: len(sound) // 2], "footer-cut": sound[:-9], "magic-only": b"PAR1PAR1", "nothing": b"",
        "zip": archive(), "footer-of-4-gib": sound[:-8] + b"\xff\xff\xff\xffPAR1",
        "footer-of-noise": sound[:-200] + b"\x5a" * 192 + sound[-8:],
        "text-column": parquet(pa.table({"image": ["a", "b"]})),
        "number-column": parquet(pa.table({"image": [1, 2]})),
        "no-column": parquet(pa.table({"key": ["a.png"], "label": [1]})),
        "column-twice": parquet(pa.Table.from_arrays([pa.array([picture])] * 2, ["image", "image"])),
        "name-out-of-time": parquet(rows_table(pa.array([2**62], pa.timestamp("ms")), [picture])),
    }.items():  # fmt: skip
        yield broken(f"q/{name}.parquet", data)
    yield broken("q/page-of-noise.parquet", _dense()[:40] + b"\x5a" * 60 + _dense()[100:])
    not_text = pa.array([b"\xff\xfe.png", b"sound.png"], pa.binary()).view(pa.string())
    yield Shard("q/names-not-utf-8.parquet", parquet(rows_table(not_text, [picture, picture])),
                {"q/names-not-utf-8.parquet/sound.png": frozenset({DECODED})}, unsafe=1)  # fmt: skip


def _dense() -> bytes:
    return parquet(rows_table(None, [honest()["plain.png"]] * 3), compression="zstd", use_dictionary=False)
