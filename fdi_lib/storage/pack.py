"""Write a folder or prefix of images as shards, the same bytes for the same files: WebDataset tar, or Parquet.

No wall clock, owner or host gets into a shard. Parquet shards are equal for one version of pyarrow, tar shards always.
Does NOT decode images, and never writes below the source.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fdi_lib.errors import ItemError, RunConflictError
from fdi_lib.storage.names import check_image_name
from fdi_lib.storage.sources import is_image, sample_key
from fdi_lib.storage.store import UNREAD, ObjectEntry, Store, extension

Format = Literal["webdataset", "parquet"]
_HUGGING_FACE = {"info": {"features": {"key": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}}}
PARQUET = pa.schema(
    [("key", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))],
    metadata={"huggingface": json.dumps(_HUGGING_FACE)},
)
_ROW_GROUP_BYTES = 16 * 2**20  # one image is read again by reading its row group up to it


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar with the members in the given order: mode 0644, no time, no owner; PAX headers where names need them."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def parquet_bytes(rows: Iterable[tuple[str, bytes]]) -> bytes:
    """A Parquet file with columns ``key`` (path) and ``image`` {bytes, path} as Hugging Face datasets read it."""
    sink = io.BytesIO()
    # Images are compressed already, and no two are alike.
    with pq.ParquetWriter(sink, PARQUET, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for group in _groups(((name, data) for name, data in rows), _ROW_GROUP_BYTES):
            table = [{"key": name, "image": {"bytes": data, "path": name}} for name, data in group]
            writer.write_table(pa.Table.from_pylist(table, PARQUET))
    return sink.getvalue()


def pack(source: Store, dest: Store, form: Format, shard_bytes: int) -> dict[str, int | dict[str, int] | str]:
    """Pack the images below ``source`` into shards below ``dest``; running again finishes what is missing.

    In tar shards, files that share an image's key (its path up to the first dot of the name) go with it. All other
    files are counted by extension in ``ignored``, names that no shard can hold under ``(unsafe name)``, pipes and
    devices under ``(no regular file)``.

    Args:
        source: folder or prefix of single files; must not hold ``dest``.
        dest: where ``shard-000000.tar`` (or ``.parquet``) and so on are created.
        form: webdataset or parquet.
        shard_bytes: a shard is closed before it would hold more than this; held in memory.

    Raises:
        RunConflictError: a shard of this name but with other bytes is there already.
    """
    dest.remove_unfinished()
    ignored: Counter[str] = Counter()
    suffix, write = ("tar", tar_bytes) if form == "webdataset" else ("parquet", parquet_bytes)
    images = companions = total = shards = 0
    for number, shard in enumerate(_groups(_read(source, form, ignored), shard_bytes)):
        path, data = f"shard-{number:06d}.{suffix}", write(shard)
        if not dest.create(path, data) and dest.read(path) != data:
            raise RunConflictError(f"{dest.uri(path)} holds something else; name an empty destination")
        pictures = sum(is_image(name) for name, _ in shard)
        images, companions = images + pictures, companions + len(shard) - pictures
        total, shards = total + len(data), shards + 1
    return {
        "images": images, "companions": companions, "shards": shards, "bytes": total,
        "ignored": dict(sorted(ignored.items())), "output": dest.uri(),
    }  # fmt: skip


def _read(source: Store, form: Format, ignored: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """The files to pack, in order, with their bytes."""
    for sample in _samples(source, ignored):
        has_image = any(is_image(entry.path) for entry in sample)
        for entry in sample:
            if is_image(entry.path) or (has_image and form == "webdataset"):
                yield entry.path, source.read(entry.path)
            else:
                ignored[extension(entry.path) or "(none)"] += 1


def _samples(source: Store, ignored: Counter[str]) -> Iterator[list[ObjectEntry]]:
    """Neighbours with one key; a stream, because a sorted listing holds them side by side."""
    sample: list[ObjectEntry] = []
    for entry in source.walk():
        if entry.version in UNREAD:
            ignored[entry.version] += 1
            continue
        try:
            check_image_name(entry.path)
        except ItemError:
            ignored["(unsafe name)"] += 1
            continue
        if sample and sample_key(sample[0].path) != sample_key(entry.path):
            yield sample
            sample = []
        sample.append(entry)
    if sample:
        yield sample


def _groups(items: Iterable[tuple[str, bytes]], limit: int) -> Iterator[list[tuple[str, bytes]]]:
    """Consecutive items of together at most ``limit`` bytes; a larger one stands alone, a sample is never parted."""
    group: list[tuple[str, bytes]] = []
    held = 0
    for name, data in items:
        if group and held + len(data) > limit and sample_key(group[-1][0]) != sample_key(name):
            yield group
            group, held = [], 0
        group.append((name, data))
        held += len(data)
    if group:
        yield group
