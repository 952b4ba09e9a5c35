"""The ledger: what became of each image, as a Parquet dataset of parts that are created once and never changed.

A part is created after the outputs it names are durable. Any number of parts may name an image; which row counts is
said by one function, :func:`effective`. Many small parts are merged into few large ones: the merged part is there
before a small one goes, and a row that is there twice counts once. Does NOT know runs, units or images, nor torch, nor
Ray.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fdi_lib.errors import StorageRefusedError
from fdi_lib.records import LEDGER, Status
from fdi_lib.storage.store import ObjectEntry, Store

FOLDER = "ledger/"
STAGED = "_control/staged/ledger/"  # rows whose images still have to be put into a shard, a folder for each shard
MERGED = "merged-"  # sorts behind the hexadecimal names of other parts, so that no listing misses both
EVERYWHERE = (STAGED, FOLDER)  # in this order no row is missed that is committed in between
SMALL_BYTES, MERGED_BYTES, MERGED_PARTS = 16 * 2**20, 32 * 2**20, 2000  # of parts worth merging; of a merged one
_READERS = 16  # parts read at a time: each is a request
# Two rows of one image and attempt (a unit that ran twice) differ at most in what is not compared here.
_ORDER = [
    ("image_id", "ascending"),
    ("attempt", "descending"),
    ("output_sha256", "descending"),  # what was delivered, before a failure of whom its worker died with afterwards
    ("status", "ascending"),
    ("worker", "ascending"),
]


def write_part(store: Store, table: pa.Table, attempt: int, folder: str = FOLDER) -> str | None:
    """Create a part with ``table``, durably; its name follows from the image ids and the attempt.

    Args:
        store: the run's output.
        table: rows with at least the columns of ``records.LEDGER``; they all hold ``attempt``.
        attempt: 1 for a first run.
        folder: where to; another one only for rows that are not committed yet.

    Returns:
        The part's path; None if it already exists: the same images at the same attempt were accounted for before.
    """
    assert table.num_rows and set(table["attempt"].to_pylist()) == {attempt}
    digest = hashlib.blake2b(str(attempt).encode(), digest_size=16)
    for image_id in sorted(table["image_id"].to_pylist()):
        digest.update(b"\0" + image_id.encode())
    path = f"{folder}{digest.hexdigest()}.parquet"
    return path if store.create(path, _encoded(table)) else None


def _encoded(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.select(LEDGER.names).cast(LEDGER), sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def compact(store: Store, least: int = 1000) -> int:
    """Merge small parts, so that a ledger of millions of images is read with hundreds of requests, not ten thousands.

    Safe against being killed at any point, against readers, and against another compaction: no row is ever in no part.

    Args:
        store: the run's output; its lease must be held.
        least: fewer small parts are left as they are.

    Returns:
        Parts that were merged away.

    Raises:
        StorageRefusedError: a part is not readable; nothing of its group is deleted.
    """
    small = [entry for entry in store.walk(FOLDER) if entry.path.endswith(".parquet") and entry.size < SMALL_BYTES]
    if len(small) < max(least, 2):
        return 0
    gone = 0
    for group in _groups(small):
        paths = [entry.path for entry in group]
        parts = [part for part in _read_parts(store, paths, None) if part is not None]
        if len(parts) < len(paths):  # another one is merging them
            continue
        merged = _once(pa.concat_tables(parts))
        name = hashlib.blake2b("\0".join(paths).encode(), digest_size=16).hexdigest()
        path = f"{FOLDER}{MERGED}{name}.parquet"
        if not store.create(path, _encoded(merged)) and not merged.equals(next(_read_parts(store, [path], None))):
            raise StorageRefusedError(f"{store.uri(path)}: not what its parts hold; move it away, and run again")
        for part in paths:
            store.delete(part)
        gone += len(paths)
    return gone


def _groups(parts: list[ObjectEntry]) -> Iterator[list[ObjectEntry]]:
    """Cut into groups of bounded size; a part alone is no group."""
    group: list[ObjectEntry] = []
    size = 0
    for part in parts:
        group.append(part)
        size += part.size
        if len(group) == MERGED_PARTS or size >= MERGED_BYTES:
            yield group
            group, size = [], 0
    if len(group) > 1:
        yield group


def _once(table: pa.Table) -> pa.Table:
    """All rows of all attempts, sorted by image and attempt; of two rows of one attempt the one that counts."""
    attempts = [effective(table.filter(pc.equal(table["attempt"], attempt))) for attempt in pc.unique(table["attempt"])]
    return pa.concat_tables(attempts).sort_by([("image_id", "ascending"), ("attempt", "ascending")]).combine_chunks()


def scan(store: Store, columns: list[str] | None = None, folder: str = FOLDER) -> Iterator[pa.Table]:
    """Stream all parts as they are: rows of several attempts, and duplicates, included.

    A part that a compaction deletes in the meantime is found again in the merged one, which is listed before.

    Raises:
        StorageRefusedError: a part is not readable as Parquet.
    """
    seen: set[str] = set()
    complete = False
    while not complete:
        complete = True
        found = (entry.path for entry in store.walk(folder) if entry.path.endswith(".parquet"))
        fresh = (path for path in found if path not in seen)
        while some := list(islice(fresh, 4 * _READERS)):
            seen.update(some)
            parts = list(_read_parts(store, some, columns))
            complete = complete and None not in parts
            yield from (part for part in parts if part is not None)


def _read_parts(store: Store, paths: list[str], columns: list[str] | None) -> Iterator[pa.Table | None]:
    """Read parts, some at a time, in order; None for one that is gone."""

    def read(path: str) -> pa.Table | None:
        try:
            part = pq.ParquetFile(pa.BufferReader(store.read(path)))
            # Without threads: Arrow's pool can abort a process that ends while its threads start (arrow#34314).
            return part.read(columns=columns, use_threads=False)
        except FileNotFoundError:
            return None
        except pa.ArrowException as error:
            remedy = "restore it from a copy, or delete it: its images are then done again"
            raise StorageRefusedError(f"{store.uri(path)}: broken ledger part ({error}); {remedy}") from error

    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(read, paths)


def effective(table: pa.Table) -> pa.Table:
    """The rows that count, sorted by image: of each image that with the highest attempt; equal duplicates count once.

    Needs the columns ``image_id`` and ``attempt``; where the columns ``status``, ``output_sha256`` and ``worker`` are
    there as well, the choice between unequal rows of one attempt does not depend on the order of the rows.
    """
    if not table.num_rows:
        return table
    order = pc.sort_indices(table, sort_keys=[key for key in _ORDER if key[0] in table.column_names])
    ids = table["image_id"].take(order).combine_chunks()
    first = np.ones(len(ids), dtype=bool)
    first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return table.take(order.filter(pa.array(first)))


def load_effective(store: Store, columns: list[str] | None = None, folders: tuple[str, ...] = (FOLDER,)) -> pa.Table:
    """All effective rows of a run, with ``columns`` (all of ``records.LEDGER`` by default)."""
    wanted = LEDGER.names if columns is None else columns
    needed = [name for name in LEDGER.names if name in {*wanted, *(key for key, _ in _ORDER)}]
    schema = pa.schema([LEDGER.field(name) for name in needed])
    parts = [part for folder in folders for part in scan(store, needed, folder)]
    return effective(pa.concat_tables(parts) if parts else schema.empty_table()).select(wanted)


def counts(store: Store) -> dict[str, int]:
    """Effective rows per status, those that wait for their shard included; every status is there."""
    found = {str(status): 0 for status in Status}
    for group in load_effective(store, ["status"], EVERYWHERE)["status"].value_counts().to_pylist():
        found[group["values"]] = group["counts"]
    return found


def finished(store: Store, but: pa.Table | None = None) -> pa.Table:
    """``image_id`` and ``source_bytes`` of all effective rows, without those of the ids in ``but``."""
    table = load_effective(store, ["image_id", "source_bytes"], EVERYWHERE)
    if but is None:
        return table
    return table.filter(pc.invert(pc.is_in(table["image_id"], but["image_id"].combine_chunks())))


def failed(store: Store, reason: str | None = None) -> pa.Table:
    """Effective rows that failed or wait for review, with all columns; only those of ``reason`` if it is given."""
    table = load_effective(store, folders=EVERYWHERE)
    table = table.filter(pc.is_in(table["status"], pa.array([str(Status.FAILED), str(Status.REVIEW)])))
    return table if reason is None else table.filter(pc.equal(table["reason"], reason))


def image_key(image_id: str) -> bytes:
    """A 16-byte hash of the id: what the index of done images holds in its place."""
    return hashlib.blake2b(image_id.encode(), digest_size=16).digest()


def done_index(store: Store) -> np.ndarray:
    """Keys of all images that any part names, whatever their status: only a retry runs failed ones again.

    Returns:
        uint64 array 2,N: first and second halves of the sorted keys (:func:`image_key`, big-endian), each key once.
    """
    tables = (table for folder in EVERYWHERE for table in scan(store, ["image_id"], folder))
    parts = [_keys(table["image_id"].to_pylist()) for table in tables]
    keys = np.concatenate([np.empty((2, 0), np.uint64), *parts], axis=1)
    keys = keys[:, np.lexsort((keys[1], keys[0]))]
    new = np.ones(keys.shape[1], dtype=bool)
    new[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return np.ascontiguousarray(keys[:, new])


def is_done(index: np.ndarray, image_ids: Iterable[str]) -> np.ndarray:
    """Which ids the index holds.

    Args:
        index: uint64 array 2,N from :func:`done_index`.
        image_ids: M ids.

    Returns:
        bool array M.
    """
    first, second = _keys(image_ids)
    low = np.searchsorted(index[0], first, side="left")
    high = np.searchsorted(index[0], first, side="right")
    found = np.zeros(len(first), dtype=bool)
    for step in range(int((high - low).max(initial=0))):  # more than one only where two first halves collide
        inside = low + step < high
        found[inside] |= index[1, low[inside] + step] == second[inside]
    return found


def _keys(image_ids: Iterable[str]) -> np.ndarray:
    joined = b"".join(image_key(image_id) for image_id in image_ids)
    return np.ascontiguousarray(np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2).T)
