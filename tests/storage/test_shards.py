"""Tar members and Parquet rows from ranged reads."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fdi_lib.errors import ItemError, StorageOutageError
from fdi_lib.storage.local import LocalStore
from fdi_lib.storage.pack import parquet_bytes, tar_bytes
from fdi_lib.storage.shards import RangeReader, parquet_rows, tar_members


class Memory(LocalStore):
    """One object in memory that notes what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__("/memory")
        self.data, self.read_bytes, self.dead = data, 0, False

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        if self.dead:
            raise StorageOutageError("gone")
        found = self.data[offset : None if length is None else offset + length]
        self.read_bytes += len(found)
        return found


def reader_of(data: bytes, ahead: int = 64) -> RangeReader:
    return RangeReader(Memory(data), "x", len(data), ahead)


def test_a_range_reader_is_a_file() -> None:
    data = bytes(range(256)) * 8
    reader = reader_of(data, 100)
    assert reader.read(10) == data[:10]
    assert reader.read(200) == data[10:210]
    assert reader.seek(-5, 2) == len(data) - 5
    assert reader.read(100) == data[-5:]
    assert reader.read(1) == b""
    reader.seek(50)
    assert reader.read() == data[50:]
    reader.seek(10_000)
    assert reader.read(3) == b""
    reader.seek(0)
    assert io.BufferedReader(reader).read() == data


def test_reading_on_reads_each_byte_once() -> None:
    data = bytes(10_000)
    reader = reader_of(data, 512)
    for size in (1, 500, 700, 3, 5000, 20, 10_000):
        reader.read(size)
    assert reader._store.read_bytes == len(data)  # type: ignore[attr-defined]


MEMBERS = [("a/1.jpg", b"one" * 500), ("a/1.json", b"{}"), ("b.png", b""), ("c.tif", b"three")]


def test_members_lie_where_they_say() -> None:
    data = tar_bytes(MEMBERS)
    reader = reader_of(data, 600)
    found = []
    for member in tar_members(reader):
        reader.seek(member.offset)
        found.append((member.name, reader.read(member.length)))
        assert data[member.offset : member.offset + member.length] == found[-1][1]
    assert found == MEMBERS
    assert reader._store.read_bytes < len(data) + 50 * len(MEMBERS)  # type: ignore[attr-defined]


def _until_broken(data: bytes) -> tuple[list[str], str]:
    names = []
    try:
        for member in tar_members(reader_of(data)):
            names.append(member.name)
    except ItemError as error:
        return names, str(error)
    return names, ""


def test_whole_archives_raise_nothing() -> None:
    assert _until_broken(tar_bytes(MEMBERS)) == ([name for name, _ in MEMBERS], "")
    assert _until_broken(tar_bytes([])) == ([], "")


@pytest.mark.parametrize("cut", range(1, 9000, 331))
def test_a_cut_archive_never_ends_quietly(cut: int) -> None:
    data = tar_bytes(MEMBERS)[:-9216]  # without most of the padding at the end
    names, error = _until_broken(data[: min(cut, len(data) - 1024)])
    assert "unreadable" in error
    assert names == [name for name, _ in MEMBERS[: len(names)]]


def test_a_broken_header_in_the_middle_never_ends_quietly() -> None:
    data = bytearray(tar_bytes(MEMBERS))
    second = data.index(b"a/1.json")
    data[second + 148 : second + 156] = b"garbage!"  # its checksum
    assert _until_broken(bytes(data)) == (
        ["a/1.jpg"],
        f"unreadable: broken, or cut, at byte {second}: no end of archive",
    )


@pytest.mark.parametrize("size", [b"00000077777\0", b"77777777777\0", b"\x80" + b"\0" * 3 + b"\xff" * 8, b"\xff" * 12])
def test_a_lying_size_reads_nothing_behind_the_end(size: bytes) -> None:
    data = bytearray(tar_bytes(MEMBERS))
    start = data.index(b"a/1.json")
    data[start + 124 : start + 136] = size
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    names, error = _until_broken(bytes(data))
    assert names == ["a/1.jpg"]
    assert "unreadable" in error


@pytest.mark.parametrize("data", [b"", b"not a tar" * 200, b"\x1f\x8b" + bytes(600), b"x"])
def test_what_is_no_tar_is_unreadable(data: bytes) -> None:
    assert "unreadable" in _until_broken(data)[1]


def test_links_are_members_with_a_problem() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        folder, link = tarfile.TarInfo("d"), tarfile.TarInfo("d/l.png")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(folder)
        tar.addfile(link)
    members = list(tar_members(reader_of(sink.getvalue())))
    assert [(m.name, bool(m.problem)) for m in members] == [("d/l.png", True)]


def _parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def test_rows_of_what_we_write() -> None:
    rows = list(parquet_rows(reader_of(parquet_bytes(MEMBERS))))
    assert [(row.name, row.data) for row in rows] == MEMBERS
    assert [row.number for row in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"image": [{"bytes": b"1", "path": "p.png"}, {"bytes": None, "path": None}, None]}, ["p.png", "", ""]),
        ({"bytes": [b"1", None, None], "name": ["n", "m", None]}, ["n", "m", ""]),
        ({"image_bytes": [b"1", None, None], "id": [7, 8, 9]}, ["7", "8", "9"]),
        ({"image": [b"1", None, None], "path": ["a/b.png", "", ""]}, ["a/b.png", "", ""]),
        # A column of names counts for all rows, so that names alone and names with bytes are the same.
        ({"image": [{"bytes": b"1", "path": "p.png"}, None, None], "key": [None, "k", None]}, ["", "k", ""]),
        ({"image": [b"1", None, None], "key": pa.array([b"a.png", b"\xff.png", None])}, ["a.png", "\\xff.png", ""]),
    ],
)
def test_other_peoples_columns(columns: dict[str, list], names: list[str]) -> None:
    rows = list(parquet_rows(reader_of(_parquet(pa.table(columns)))))
    assert [row.name for row in rows] == names
    assert [row.data for row in rows] == [b"1", None, None]
    alone = parquet_rows(reader_of(_parquet(pa.table(columns))), with_bytes=False)
    assert [row.name for row in alone] == names


def test_one_row_reads_its_row_group_only() -> None:
    pictures = [bytes([n]) * 100_000 for n in range(40)]
    data = _parquet(pa.table({"bytes": pictures}), row_group_size=4, compression="none", use_dictionary=False)
    reader = reader_of(data)
    assert [row.data for row in parquet_rows(reader, only=21)] == [pictures[21]]
    assert reader._store.read_bytes < 600_000  # type: ignore[attr-defined]
    assert list(parquet_rows(reader, only=40)) == []


def test_all_rows_read_each_byte_about_once() -> None:
    pictures = [bytes([n]) * 100_000 for n in range(40)]
    data = _parquet(
        pa.table({"bytes": pictures, "key": [str(n) for n in range(40)]}), row_group_size=4, compression="none"
    )
    reader = reader_of(data, 64 * 1024)
    assert [row.data for row in parquet_rows(reader)] == pictures
    assert reader._store.read_bytes < 1.2 * len(data)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "data", [b"", b"PAR1" * 30, parquet_bytes(MEMBERS)[:-30], _parquet(pa.table({"bytes": ["text"]}))]
)
def test_what_is_no_image_shard_is_unreadable(data: bytes) -> None:
    with pytest.raises(ItemError, match="unreadable"):
        list(parquet_rows(reader_of(data)))


def test_an_outage_stays_an_outage() -> None:
    for data, read in ((parquet_bytes(MEMBERS), parquet_rows), (tar_bytes(MEMBERS), tar_members)):
        reader = reader_of(data)
        reader._store.dead = True  # type: ignore[attr-defined]
        with pytest.raises(StorageOutageError):
            list(read(reader))


@pytest.mark.parametrize("column", ["key", "image", "bytes"])
def test_names_alone_are_read_without_the_images(column: str) -> None:
    structs = [{"bytes": b"x" * 9, "path": "1.png"}, {"bytes": b"y", "path": None}]
    columns: dict[str, Any] = {"bytes": [b"x", b"y"]} if column == "bytes" else {"image": structs}
    columns |= {"key": ["1.png", None]} if column == "key" else {}
    found = list(parquet_rows(reader_of(_parquet(pa.table(columns))), with_bytes=False))
    assert [tuple(row) for row in found] == [(0, "" if column == "bytes" else "1.png", b""), (1, "", b"")]
