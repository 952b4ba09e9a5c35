"""What follows the stream, shard by shard: plain Ray tasks put results into shards, or carry over what lies beside.

With the layout ``files`` only what lies beside the images of a WebDataset shard is carried over. Does NOT know how a
shard is put together (``fdi_lib.storage.assemble``), nor how its images came about.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray

from fdi_lib.errors import FDIError
from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import LEDGER
from fdi_lib.storage import ledger
from fdi_lib.storage.assemble import COMMITTED, assemble, carry_over, contents
from fdi_lib.storage.layouts import shard_path
from fdi_lib.storage.outputs import not_in_a_shard, staging_folders
from fdi_lib.storage.sources import is_image, list_objects, path_below
from fdi_lib.storage.store import ObjectEntry, Store, extension
from jobs.pulled import cause

log = logging.getLogger(__name__)
_OBJECTS_PER_BLOCK = 1000
_IN_FLIGHT = 32  # tasks that wait for their resources, or run
_GIB = 2**30


def check_layout(manifest: RestoreManifest) -> None:
    """Refuse single files as a source of shards.

    Raises:
        ManifestError: the source holds, or may hold, single files, and the layout is one of shards.
    """
    layout, form = manifest.output.layout, manifest.source.format
    if layout == "files" or form in ("webdataset", "parquet"):
        return
    if form in ("files", "inventory"):
        raise not_in_a_shard(layout, f"source.format: {form}")
    for block in list_objects(manifest.source, _OBJECTS_PER_BLOCK):
        for entry in block:
            if is_image(entry.path):
                raise not_in_a_shard(layout, entry.path)


def staged(output: Store) -> bool:
    """Whether results wait to be put into shards."""
    return next(output.walk(ledger.STAGED), None) is not None


def finish_shards(manifest: RestoreManifest, output: Store, everything: bool) -> None:
    """Finish all source shards: put staged results into output shards, carry over what lies beside images.

    Args:
        manifest: the resolved manifest.
        output: the run's output.
        everything: False after a retry: only shards that got new images, and a shard need not be complete.

    Raises:
        FDIError: a shard changed, or went away, while it was read; all others are finished.
    """
    layout, pool = manifest.output.layout, manifest.pools.decode
    task = ray.remote(_finish).options(num_cpus=pool.cpus, memory=int(pool.memory_gib * _GIB))
    running: list[ray.ObjectRef] = []
    for entry, committed in _unfinished(manifest, output, everything):
        if len(running) == _IN_FLIGHT:
            running = _collect(running, 1)
        running.append(task.remote(manifest, entry, committed))
    while running:
        running = _collect(running, len(running))
    if layout != "files" and staged(output):
        part = next(ledger.scan(output, ["shard"], ledger.STAGED))
        waiting = f"results of {part['shard'][0].as_py()} wait in {output.uri(ledger.STAGED)}"
        if everything:
            raise FDIError(f"{waiting}: it changed, or went away, while it was read; run again")
        log.warning("%s until the run is complete", waiting)


def _unfinished(
    manifest: RestoreManifest, output: Store, everything: bool
) -> Iterator[tuple[ObjectEntry, pa.Table | None]]:
    """Source shards that have something left to do, with their committed rows (for shard layouts)."""
    layout = manifest.output.layout
    if manifest.source.format == "inventory" or (layout == "files" and not everything):
        return
    source = Store.open(manifest.source.uri, manifest.source.storage)
    rows = {} if layout == "files" else _by_shard(ledger.load_effective(output, COMMITTED))
    none = pa.schema([LEDGER.field(name) for name in COMMITTED]).empty_table()
    pending = {entry.path.removeprefix(ledger.STAGED).partition("/")[0] for entry in output.walk(ledger.STAGED)}
    for block in list_objects(manifest.source, _OBJECTS_PER_BLOCK):
        for entry in block:
            kind, shard = extension(entry.path), path_below(manifest.source, entry.path)
            if layout == "files":
                if kind == "tar":
                    yield entry, None
            elif staging_folders(shard)[0].removeprefix(ledger.STAGED).rstrip("/") in pending or (
                everything and not output.exists(shard_path(source, shard, layout))
            ):
                yield entry, rows.get(shard, none)


def _finish(manifest: RestoreManifest, entry: ObjectEntry, committed: pa.Table | None) -> None:
    """Finish one source shard; holds the output shard in memory, about twice."""
    source = Store.open(manifest.source.uri, manifest.source.storage)
    output = Store.open(manifest.output.uri, manifest.output.storage)
    found = contents(source, manifest.source, entry)
    if committed is not None:
        assemble(output, source, found, manifest.output.layout, committed)
        return
    for path in carry_over(output, found):
        log.warning("%s is another file than the one in %s, which is not carried over", output.uri(path), found.shard)


def _collect(running: list[ray.ObjectRef], at_least: int) -> list[ray.ObjectRef]:
    done, left = ray.wait(running, num_returns=at_least)
    for reference in done:
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            raise cause(error) from None
    return left


def _by_shard(rows: pa.Table) -> dict[str, pa.Table]:
    """Split rows by their shard."""
    rows = rows.sort_by("shard")
    shards = rows["shard"].to_numpy()
    starts = [0, *(np.flatnonzero(shards[1:] != shards[:-1]) + 1).tolist()] if len(shards) else []
    return {shards[a]: rows.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(shards)], strict=True)}
