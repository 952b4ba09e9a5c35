"""What the router's Ray workers run: the restore stage, as an actor that holds models, or as a task that copies.

Apart from the driver's files, so that a worker imports no more than it needs. Does NOT know the router.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from fdi_lib.core.routing import IN_FLIGHT
from fdi_lib.manifest import RestoreManifest, RestorePool
from fdi_lib.records import Reason, Status
from fdi_lib.stages.restore import Restore
from fdi_lib.storage.attempts import note_loss
from fdi_lib.storage.store import Store
from jobs.dispatch import Workforce
from jobs.parts import Parts

_GIB = 2**30
_copiers: dict[str, Restore] = {}


def workforce(manifest: RestoreManifest, run: dict[str, Any], parts: Parts, actors: int, attempt: int) -> Workforce:
    """Put together who does the router's work.

    Args:
        manifest: the resolved manifest.
        run: run.json's content.
        parts: how models are made.
        actors: restore actors at most.
        attempt: number of this attempt in the ledger.
    """
    output = Store.open(manifest.output.uri, manifest.output.storage)
    pool = manifest.pools.restore
    make = partial(Restore, manifest, run, partial(parts.restorer, manifest))
    restoring = actor_class(pool)
    copying = ray.remote(copy_images).options(num_cpus=0)
    return Workforce(
        hire=lambda: restoring.remote(make),
        finish=lambda rows, attempt: copying.remote(manifest, run, rows, attempt),
        give_up=given_up,
        note_loss=lambda image_ids, losses: note_loss(output, image_ids, attempt, losses),
        least=pool.min,
        most=actors,
        capacity=pool.resident_adapters,
        wait_s=manifest.limits.wait_s,
    )


def actor_class(pool: RestorePool) -> Any:
    """The Ray actor class of restore workers, with a pool's resources."""
    return ray.remote(RestoreActor).options(
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        memory=int(pool.memory_gib * _GIB),
        max_concurrency=IN_FLIGHT + 1,  # and one for ready()
    )


class RestoreActor:
    """One restore stage with its models, kept loaded. Its units run in threads; one at a time has the model."""

    def __init__(self, make: Callable[[], Restore]) -> None:
        """Load the models."""
        self._stage = make()

    def ready(self) -> str:
        """Return the node's id once the models are loaded."""
        return ray.get_runtime_context().get_node_id()

    def work(self, rows: pa.Table, attempt: int) -> dict[str, Any]:
        """Finish one unit; return its counts."""
        return self._stage(rows, attempt)


def copy_images(manifest: RestoreManifest, run: dict[str, Any], rows: pa.Table, attempt: int) -> dict[str, Any]:
    """Finish one unit that needs no model; return its counts."""
    key = f"{manifest.model_dump_json()} {run['opened']}"
    if key not in _copiers:  # kept by the process: it knows the stores and the names in their shards
        _copiers.clear()
        _copiers[key] = Restore(manifest, run)
    return _copiers[key](rows, attempt)


def given_up(rows: pa.Table, reason: Reason, detail: str) -> pa.Table:
    """Rows of images that can't be done, as failed ones that need no model."""
    fate = {"status": Status.FAILED, "reason": reason, "detail": detail, "route": ""}
    return pa.Table.from_pylist([row | fate for row in rows.to_pylist()], schema=rows.schema)
