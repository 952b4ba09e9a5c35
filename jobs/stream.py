"""The first half of the job on Ray Data: list, decode, classify. Out come decision rows, tiny and without pixels.

One streaming task lists the source; Decode tasks turn objects into views; Classify actors turn views into decisions.
Does NOT know routes, outputs or the ledger's rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from fdi_lib.core.batches import unpack
from fdi_lib.manifest import RestoreManifest
from fdi_lib.stages.classify import Classify, ViewClassifier
from fdi_lib.stages.decode import Decode, pack_entries
from fdi_lib.storage.run import LISTING_FILE, Fingerprint
from fdi_lib.storage.sources import list_objects
from fdi_lib.storage.store import ObjectEntry, Store
from jobs.forced import ClassifyOthers, decode_or_force
from jobs.read_tasks import ReadTasks

_CHUNK_OBJECTS = 256  # objects of one decode task at most,
_CHUNK_BYTES = 64 * 2**20  # ended earlier by their size, so that large files and shards spread over tasks
_GIB = 2**30


def decisions(manifest: RestoreManifest, decode: Decode, load: Callable[[], ViewClassifier],
              only_objects: frozenset[str] | None = None, note_listing: bool = True) -> Iterator[pa.Table]:  # fmt: skip
    """Yield tables of ``records.DECISION`` rows, as they are decided.

    Args:
        manifest: what is read, and the pools.
        decode: the first stage.
        load: makes a classifier, in each actor of the second stage.
        only_objects: paths of the objects to read; None for all.
        note_listing: write down in the output what was listed.
    """
    pools, listed = manifest.pools, manifest.source.format == "inventory"
    read: Callable[[pa.Table], Iterator[pa.Table]] = (
        partial(decode_or_force, decode, manifest.restore) if listed else lambda table: decode(table)
    )
    stream = (
        ray.data.read_datasource(
            ReadTasks([partial(_list, manifest, only_objects, note_listing)]), num_cpus=0, override_num_blocks=1
        )
        .map_batches(
            lambda table: read(table),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=pools.decode.cpus,
            memory=pools.decode.memory_gib * _GIB,
        )
        .map_batches(
            ClassifyOthers if listed else Classify,
            fn_constructor_args=(load, manifest.classify.unknown),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=pools.classify.min, max_size=pools.classify.max),
            num_cpus=pools.classify.cpus,
            num_gpus=pools.classify.gpus,
            memory=pools.classify.memory_gib * _GIB,
        )
    )
    for table in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from (rows for rows, _ in unpack(table))


def _list(manifest: RestoreManifest, only: frozenset[str] | None, note: bool) -> Iterator[pa.Table]:
    """Yield packed chunks of objects; then note what was listed, so that the run can tell whether it is complete."""
    listing, seen = list_objects(manifest.source, 1000, manifest.output.uri), Fingerprint()
    for chunk in _chunks(_seen_by(seen, listing), only):
        yield pack_entries(chunk)
    if not note:
        return
    found = {"listing": seen.summary(), "ignored": dict(sorted(listing.ignored.items()))}
    output = Store.open(manifest.output.uri, manifest.output.storage)
    output.replace(LISTING_FILE, json.dumps(found, sort_keys=True).encode())


def _seen_by(seen: Fingerprint, blocks: Iterable[list[ObjectEntry]]) -> Iterator[ObjectEntry]:
    for block in blocks:
        for entry in block:
            seen.add(entry)
            yield entry


def _chunks(entries: Iterable[ObjectEntry], only: frozenset[str] | None) -> Iterator[list[ObjectEntry]]:
    chunk: list[ObjectEntry] = []
    size = 0
    for entry in entries:
        if only is not None and entry.path not in only:
            continue
        chunk.append(entry)
        size += max(entry.size, 0)  # unknown sizes are negative
        if len(chunk) == _CHUNK_OBJECTS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
