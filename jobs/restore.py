"""``fdi restore``: the whole story on one screen. List, decode, classify, route, restore, account, finish shards.

``run`` holds the stages in order; how each works is in ``stream.py`` (Ray Data), ``dispatch.py`` (the router's shell),
``shards.py`` (what follows for whole shards) and ``fdi_lib.stages``. Does NOT know models beyond the functions in
``parts.py``, nor the command line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from fdi_lib.core.routing import Backlog
from fdi_lib.manifest import RestoreManifest, StorageSettings
from fdi_lib.manifest.locations import redact
from fdi_lib.records import Reason, Status
from fdi_lib.stages.decode import Decode
from fdi_lib.storage import ledger
from fdi_lib.storage.attempts import suspects
from fdi_lib.storage.lease import held
from fdi_lib.storage.run import Run, find_run, fingerprint, finish_run, load_run_at, open_run, read_listing
from fdi_lib.storage.sources import list_objects
from fdi_lib.storage.store import Store
from jobs import report
from jobs.dispatch import Dispatcher
from jobs.parts import Parts, numeric_profile
from jobs.pool import cluster
from jobs.preflight import preflight
from jobs.progress import Tally
from jobs.shards import check_layout, finish_shards, staged
from jobs.sigterm import finishing_on_sigterm
from jobs.stream import decisions
from jobs.workers import given_up, workforce

log = logging.getLogger(__name__)
_LOOKS = 3  # at a source that changes while the job runs
_JUDGED_AFTER = 50  # images; a broken start is no broken run
_BROKEN = (
    "stopping: %d of the %d images looked at so far failed, more than limits.max_failed_fraction = %g allows; "
    "see `fdi failed`, mend the source or raise the limit: the same command resumes"
)


def run(manifest: RestoreManifest, parts: Parts | None = None) -> dict[str, Any]:
    """Run, or resume, a restoration; return its summary. Raises what :mod:`fdi_lib.errors` lists."""
    parts = parts or Parts()
    job, models = _preflight(manifest, parts)
    if job and _nothing_new(job):
        return _summary(job, Tally(), already_done=sum(ledger.counts(job.store).values()))
    return _work(manifest, parts, models)


def retry(output: str, parts: Parts | None = None, storage: StorageSettings | None = None) -> dict[str, Any]:
    """Run only what failed or waits for review again, as the next attempt; return the summary."""
    job = load_run_at(output, storage or StorageSettings())
    manifest = RestoreManifest.model_validate(job.info["manifest"])
    again = ledger.failed(job.store).select(["image_id", "shard", "attempt"])
    if not again.num_rows and staged(job.store):  # an earlier retry was interrupted before its shards were written
        return run(manifest, parts)
    if not again.num_rows:
        return _summary(job, Tally(), already_done=sum(ledger.counts(job.store).values()))
    parts = parts or Parts()
    return _work(manifest, parts, _preflight(manifest, parts)[1], again)


def _work(
    manifest: RestoreManifest, parts: Parts, models: dict[str, Any], again: pa.Table | None = None
) -> dict[str, Any]:
    """The stages, in order. ``again`` holds the rows to do once more; None does what was never done."""
    limits, stopped_early = manifest.limits, False
    output = Store.open(manifest.output.uri, manifest.output.storage)
    # The cluster comes before anything is written: it may never be large enough.
    with cluster(manifest.pools, limits.wait_s) as actors, Tally(partial(_source_bytes, output)) as tally:
        job = open_run(manifest, models, numeric_profile(manifest))
        attempt = 1 if again is None else pc.max(again["attempt"]).as_py() + 1
        backlog = Backlog(suspects=suspects(job.store, attempt))
        dispatcher = Dispatcher(workforce(manifest, job.info, parts, actors, attempt), backlog, attempt)
        with held(job.store, on_loss=partial(dispatcher.stop, 0.0)):
            job.store.remove_unfinished()
            ledger.compact(job.store)
            done = ledger.finished(job.store, but=again)
            already_done = done.num_rows
            tally.begin(pc.sum(done["source_bytes"]).as_py() or 0)
            with finishing_on_sigterm(dispatcher.stop, limits.grace_s):
                for counts in _finished(manifest, parts, job.store, dispatcher, tally, again):
                    tally.add(counts)
                    broken = again is None and tally.failed_more_than(limits.max_failed_fraction, _JUDGED_AFTER)
                    if broken and not dispatcher.stopping:
                        log.error(_BROKEN, tally.counts[Status.FAILED], tally.decided, limits.max_failed_fraction)
                        stopped_early = True
                        dispatcher.stop(limits.grace_s)
            tally.counts.update(dispatcher.stats)
            if dispatcher.stopping and not stopped_early:
                raise KeyboardInterrupt
            if not stopped_early:
                finish_shards(manifest, job.store, everything=again is None)
                job = job if again is not None else _closed(job)
            report.run(manifest.output.uri, manifest.output.storage)
            job.store.remove_unfinished()  # what was too young at the start
            if not (already_done or tally.images or stopped_early):
                log.warning("%s holds no image", redact(manifest.source.uri))
    return _summary(job, tally, already_done, stopped_early)


def _finished(
    manifest: RestoreManifest,
    parts: Parts,
    output: Store,
    dispatcher: Dispatcher,
    tally: Tally,
    again: pa.Table | None,
) -> Iterator[dict[str, Any]]:
    """Yield the counts of every finished unit. A source that changed since it was looked at is looked at again."""
    load_done = partial(ray.get, ray.put(ledger.done_index(output))) if again is None else None
    for _ in range(_LOOKS):
        only, only_objects = _selection(manifest, again)
        decode = Decode(manifest, parts.view_spec(manifest.models), load_done, only)
        decided = decisions(manifest, decode, partial(parts.classifier, manifest), only_objects)
        with closing(dispatcher.run(tally.watch(decided))) as finished:
            yield from finished
        again = dispatcher.take_changed()
        if again is None or dispatcher.stopping:
            return
        log.warning("%d sources changed since they were classified; they are classified again", again.num_rows)
    detail = f"it had other bytes each of {_LOOKS} times; retry it when nobody writes to it"
    with closing(dispatcher.run(iter([given_up(again, Reason.SOURCE_CHANGED, detail)]))) as finished:
        yield from finished


def _closed(job: Run) -> Run:
    """The run, noted as finished."""
    ledger.compact(job.store)
    found = read_listing(job.store)
    assert found is not None, "the stream ended before its listing"
    return finish_run(job, found["ignored"], found["listing"])


def _preflight(manifest: RestoreManifest, parts: Parts) -> tuple[Run | None, dict[str, Any]]:
    """Find what can't work before anything is started; return the run to resume, if any, and the models."""
    models = preflight(manifest, parts)
    check_layout(manifest)
    return find_run(manifest, models, numeric_profile(manifest)), models


def _nothing_new(job: Run) -> bool:
    """Whether the run is finished and its source still lists as it did then."""
    if not job.finished or staged(job.store):
        return False
    listing = list_objects(job.source, 1000, job.store.uri())
    return job.is_done(fingerprint(entry for block in listing for entry in block))


def _selection(
    manifest: RestoreManifest, again: pa.Table | None
) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Ids to work on, and the objects that hold them; None for all."""
    if again is None:
        return None, None
    ids, shards = again["image_id"].to_pylist(), again["shard"].to_pylist()
    objects = frozenset(shard or image_id for image_id, shard in zip(ids, shards, strict=True))
    return frozenset(ids), None if manifest.source.format == "inventory" else objects


def _source_bytes(output: Store) -> int | None:
    found = read_listing(output)
    return found["listing"]["bytes"] if found else None


def _summary(job: Run, tally: Tally, already_done: int, stopped_early: bool = False) -> dict[str, Any]:
    counts = ledger.counts(job.store)
    images = sum(counts.values())
    fraction = RestoreManifest.model_validate(job.info["manifest"]).limits.max_failed_fraction
    return {
        "images": images,
        **{status.value: counts.get(status, 0) for status in Status},
        "already_done": already_done,
        "stopped_early": stopped_early,
        "failed_fraction_exceeded": counts.get(Status.FAILED, 0) > fraction * images,
        "seconds": round(tally.elapsed_s, 2),
        "images_per_s": round(tally.images / max(tally.elapsed_s, 1e-6), 3),
        "output": job.store.uri(),
        "stage_seconds": {step: round(spent, 2) for step, spent in tally.seconds.items()},
        "units": tally.counts["units"],
        "adapter_loads": tally.counts["loads"],
        "spread_loads": tally.counts["spread"],
        "restore_actors": tally.counts["actors"],
    }


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["restore", *sys.argv[1:]]))
