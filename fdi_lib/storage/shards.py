"""What is inside a shard: members of an uncompressed tar, rows of a Parquet file, read in ranges from any store.

Does NOT know which members are images, what their ids are, nor what happens to a broken shard's row.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason
from fdi_lib.storage.store import Store, printable

READ_AHEAD_BYTES = 8 * 2**20
_FEW_ROWS = 8  # rows decoded at a time: images are large
_MAX_HEADER_BYTES = 2**18  # of one extended tar header: long names and attributes take a few kilobytes
_MAX_GLOBAL_KEYS = 1_000  # of a tar's global headers, which are applied to every member
# Some supported Pythons look for a number's end from each of its digits (CVE-2024-6232); no name is that long.
_DIGITS = re.compile(rb"[0-9]{256}")
_BYTES_COLUMNS = ("image", "image_bytes", "bytes")
_NAME_COLUMNS = ("key", "id", "path", "name")


class RangeReader(io.RawIOBase):
    """An object as a seekable file; small reads are served from one range read ahead, large ones go past it.

    Args:
        store: where the object is.
        path: its path there.
        size: its size in bytes; nothing behind it is asked for, whatever a header claims.
        ahead: bytes to read at least.
    """

    def __init__(self, store: Store, path: str, size: int, ahead: int = READ_AHEAD_BYTES) -> None:
        self._store, self._path, self.size, self._ahead = store, path, size, ahead
        self._at = self._start = 0
        self._held = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; reads nothing."""
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if at < 0:
            raise ValueError(f"no position before the start: {at}")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        """Read ``size`` bytes, or up to the end."""
        left = max(self.size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        skip = self._at - self._start
        found = self._held[skip : skip + wanted] if 0 <= skip < len(self._held) else b""
        if len(found) < wanted:
            start = self._at + len(found)
            fetched = self._store.read(self._path, start, min(max(wanted - len(found), self._ahead), self.size - start))
            rest = fetched[: wanted - len(found)]
            if len(fetched) <= self._ahead:
                self._held, self._start = fetched, start
            found += rest
        self._at += len(found)
        return found

    def fetch(self, offset: int, length: int) -> bytes:
        """Read a range straight from the store; the position stays."""
        return self._store.read(self._path, offset, length)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` as far as the object goes; return how far."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Headers(io.RawIOBase):
    """A tar as ``tarfile`` sees it: it reads headers only, and trusts what they say of their own size.

    Args:
        reader: the shard; reads of it in between do no harm.
    """

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader

    def tell(self) -> int:
        """Position in bytes."""
        return self._reader.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; reads nothing."""
        return self._reader.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        """Read one header.

        Raises:
            ItemError: ``UNREADABLE``: it is an attack.
        """
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise ItemError(Reason.UNREADABLE, f"an extended header of {size} bytes")
        data = self._reader.read(size)
        if _DIGITS.search(data):
            raise ItemError(Reason.UNREADABLE, "an extended header with a number that never ends")
        return data


class Member(NamedTuple):
    """One entry of a tar: its bytes lie at ``offset`` unless ``problem`` says why they can't be used."""

    name: str
    offset: int
    length: int
    problem: str


def tar_members(reader: RangeReader) -> Iterator[Member]:
    """List the files, links and sparse files of a tar in order; folders and devices are left out.

    The caller may read members from ``reader`` in between: nothing is read twice then.

    Raises:
        ItemError: ``UNREADABLE``, after the members that could still be found: not a tar, broken or cut. Python's own
            reader takes a broken header, or a missing end, for the end of the archive without a word.
    """
    try:
        headers = _Headers(reader)
        with tarfile.TarFile(fileobj=headers, mode="r", encoding="utf-8", errors="surrogateescape") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or a large shard's headers would pile up
                if len(tar.pax_headers) > _MAX_GLOBAL_KEYS:
                    raise ItemError(Reason.UNREADABLE, f"global headers of {len(tar.pax_headers)} keys")
                stored = 0 if info.issparse() else info.size  # a sparse file's size is what it unpacks to
                if info.size < 0 or info.offset_data + stored > reader.size:
                    raise ItemError(
                        Reason.UNREADABLE, f"cut, or broken, at byte {info.offset}: {printable(info.name)!r}"
                    )
                if info.isfile() or info.issym() or info.islnk():
                    problem = "" if info.isreg() and not info.issparse() else "a link or a sparse file, not plain bytes"
                    yield Member(printable(info.name), info.offset_data, info.size, problem)
            reader.seek(tar.offset)
            if reader.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ItemError(Reason.UNREADABLE, f"broken, or cut, at byte {tar.offset}: no end of archive")
    # tarfile lets through what Python says to nonsense in extended headers, cut ones, and long chains of them
    except (tarfile.TarError, ValueError, OverflowError, IndexError, EOFError, RecursionError) as error:
        raise ItemError(Reason.UNREADABLE, f"not a whole tar: {error}") from error


class Row(NamedTuple):
    """One row of a Parquet shard; ``name`` is empty where no column gives one, ``data`` None where the row is empty."""

    number: int
    name: str
    data: bytes | None


def parquet_rows(reader: RangeReader, only: int | None = None, with_bytes: bool = True) -> Iterator[Row]:
    """Stream the rows of a Parquet shard, or one of them, for which only its row group is read.

    Without bytes only the names are read, and each row's bytes are empty.

    The image is a struct column ``image`` with ``bytes`` (and ``path``), as Hugging Face writes it, or a binary column
    ``image``, ``image_bytes`` or ``bytes``; the name is in ``key``, ``id``, ``path`` or ``name``, else ``image.path``.

    Raises:
        ItemError: ``UNREADABLE``: not Parquet, broken, or without such a column.
    """
    try:
        file = pq.ParquetFile(reader, buffer_size=READ_AHEAD_BYTES)
        image, name = _columns(file.schema_arrow)
        number, groups = 0, list(range(file.num_row_groups))
        if only is not None:
            while groups and number + file.metadata.row_group(groups[0]).num_rows <= only:
                number += file.metadata.row_group(groups.pop(0)).num_rows
            groups = groups[:1]
        if not with_bytes:
            yield from _names(file, image, name)
            return
        columns = [image, *([name] if name else [])]
        for batch in file.iter_batches(_FEW_ROWS, row_groups=groups, columns=columns) if groups else ():
            for found, data in zip(_names_in(batch, image, name), _bytes_in(batch.column(image)), strict=True):
                if only is None or only == number:
                    yield Row(number, found, data)
                if only == number:
                    return
                number += 1
    except FileNotFoundError:
        raise
    # ValueError and OverflowError: times that Python cannot tell
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ItemError(Reason.UNREADABLE, f"not a whole Parquet file: {error}") from error


def _names(file: pq.ParquetFile, image: str, name: str | None) -> Iterator[Row]:
    """The rows with empty bytes."""
    kind = file.schema_arrow.field(image).type
    if name is None and not _has_field(kind, "path"):
        yield from (Row(number, "", b"") for number in range(file.metadata.num_rows))
        return
    number = 0
    for batch in file.iter_batches(columns=[name or f"{image}.path"]):
        for found in _names_in(batch, image, name):
            yield Row(number, found, b"")
            number += 1


def _names_in(batch: pa.RecordBatch, image: str, name: str | None) -> list[str]:
    """Each row's name, from the column ``name`` or else from ``image.path``; empty where there is none."""
    if name is None and not _has_field(batch.schema.field(image).type, "path"):
        return [""] * batch.num_rows
    column = batch.column(name) if name else pc.struct_field(batch.column(image), "path")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or _is_bytes(kind):
        # As bytes, since Parquet says that they are UTF-8 and nothing checks it.
        found = (None if text is None else text.decode("utf-8", "surrogateescape") for text in _bytes_in(column))
        return [printable(text or "") for text in found]
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _bytes_in(column: pa.Array) -> list[bytes | None]:
    """Each row's bytes, from a binary or text column or from the field ``bytes`` of a struct."""
    values = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    found: list[bytes | None] = values.cast(pa.large_binary()).to_pylist()
    return found


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _has_field(kind: pa.DataType, name: str) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index(name) >= 0


def _columns(schema: pa.Schema) -> tuple[str, str | None]:
    """The columns that hold the image and its name."""

    def fits(kind: pa.DataType) -> bool:
        if _has_field(kind, "bytes"):
            return _is_bytes(kind.field("bytes").type)
        return _is_bytes(kind)

    # A name that two columns share names none.
    found = [c for c in _BYTES_COLUMNS if schema.names.count(c) == 1 and fits(schema.field(c).type)]
    if not found:
        raise ItemError(Reason.UNREADABLE, f"no column {', '.join(_BYTES_COLUMNS)} with an image's bytes")
    names = [c for c in _NAME_COLUMNS if schema.names.count(c) == 1]
    return found[0], names[0] if names else None
