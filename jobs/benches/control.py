"""``fdi bench``, section ``control_plane``: a million image references through listing, routing and ledger.

The job's own stream, router, workers and ledger, with an inventory that lists images which nobody reads, a classifier
that counts, and a restore stage that commits. What is measured is what the job costs where images cost nothing. Does
NOT know images, nor models.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from fdi_lib.core.batches import unpack
from fdi_lib.core.decision import Decision
from fdi_lib.core.routing import Backlog
from fdi_lib.core.views import ViewSpec
from fdi_lib.manifest import Pools, RestoreManifest
from fdi_lib.records import DECISION, Status
from fdi_lib.stages.decode import Decode
from fdi_lib.stages.restore import Restore
from fdi_lib.storage import ledger
from fdi_lib.storage.outputs import Outputs
from fdi_lib.storage.store import Store
from jobs.dispatch import Dispatcher, Workforce
from jobs.memory import resident_mib
from jobs.pool import cluster
from jobs.stream import decisions
from jobs.workers import actor_class, given_up

_SPEC = ViewSpec(size_px=1, crops=1)
_BATCH = 512  # of references; a batch is a block of Ray Data's
_ROUTES = 8


def measure(images: int, folder: Path) -> dict[str, Any]:
    """Run so many references through the control plane.

    Returns:
        ``images_per_s``, ``driver_mib`` (peak), ``driver_mib_by_quarter``, ``ledger_parts`` and ``compacted_to``.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="control-") as name:
        manifest = _manifest(Path(name), images)
        started, seen, memory = time.perf_counter(), 0, [resident_mib()]
        with cluster(manifest.pools, 60.0) as actors:
            decided = decisions(manifest, _Seen(manifest, _SPEC), _Counting)
            dispatcher = Dispatcher(_workforce(manifest, actors), Backlog(), 1)
            with closing(dispatcher.run(decided)) as finished:
                for counts in finished:
                    seen += counts["images"]
                    if seen * 4 >= len(memory) * images:
                        memory.append(resident_mib())
        seconds = time.perf_counter() - started
        store = Store.open(manifest.output.uri, manifest.output.storage)
        parts = sum(1 for _ in store.walk(ledger.FOLDER))
        assert ledger.done_index(store).shape[1] == seen == images, "references were lost"
        ledger.compact(store)
        return {
            "images": images,
            "images_per_s": round(images / seconds, 1),
            "driver_mib": round(max(memory), 1),
            "driver_mib_by_quarter": [round(each, 1) for each in memory],
            "ledger_parts": parts,
            "compacted_to": sum(1 for _ in store.walk(ledger.FOLDER)),
        }


def _manifest(folder: Path, images: int) -> RestoreManifest:
    """The manifest of a run over an inventory of so many images, which it writes."""
    with pq.ParquetWriter(folder / "list.parquet", pa.schema([("uri", pa.string())])) as writer:
        for start in range(0, images, 100_000):
            names = [f"box{n // 1000:05d}/{n:09d}.tif" for n in range(start, min(start + 100_000, images))]
            writer.write_table(pa.table({"uri": names}))
    one = {"cpus": 0.5, "memory_gib": 0.25}
    return RestoreManifest.model_validate({
        "kind": "restore",
        "source": {"uri": str(folder / "list.parquet"), "format": "inventory"},
        "output": {"uri": str(folder / "out")},
        "pools": Pools.model_validate({
            "decode": one, "classify": one | {"batch": _BATCH, "max": 1}, "restore": one | {"min": 2, "max": 2},
        }),
    })  # fmt: skip


class _Seen(Decode):
    """Passes references on as if each had been read."""

    def _images(self, table: pa.Table) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        view = np.zeros((_SPEC.count, 1, 1, 3), np.uint8)
        blank = dict.fromkeys(DECISION.names) | dict.fromkeys(("shard", "status", "reason", "detail", "verdict"), "")
        blank |= {"route": "", "composition": "", "kind": "file", "offset": 0, "length": 0, "row": -1, "pages": []}
        blank |= {"scores": [], "width": 1200, "height": 1000, "source_bytes": 0, "decode_s": 0.0, "classify_s": 0.0}
        for entries, _ in unpack(table):
            for path in entries["path"].to_pylist():
                uri = path.decode()
                name = uri.removeprefix(f"{self.manifest.source.uri.rpartition('/')[0]}/")
                yield blank | {"image_id": name, "source_uri": uri, "object": uri, "source_sha256": "0" * 64}, view


class _Counting:
    """Sends images to routes in turn."""

    def __init__(self) -> None:
        self._decisions = [
            Decision("single", ((f"adapter{n}", 1.0),), scores={f"adapter{n}": 0.5}) for n in range(_ROUTES)
        ]

    def classify_views(self, views: np.ndarray, shorter_px: Sequence[int]) -> list[Decision]:
        return [self._decisions[n % _ROUTES] for n in range(len(views))]


class _Commit(Restore):
    """Commits rows as if their images had been restored."""

    def __init__(self, manifest: RestoreManifest, run: dict[str, Any]) -> None:
        output = manifest.output
        self.outputs = Outputs(Store.open(output.uri, output.storage), run, output.layout)
        self.worker = "bench"

    def __call__(self, unit: pa.Table, attempt: int) -> dict[str, Any]:
        rows = [self.ledger_row(row, attempt) | {"status": Status.RESTORED} for row in unit.to_pylist()]
        self.outputs.commit(rows, attempt)
        return {"images": len(rows), "seconds": {}}


def _workforce(manifest: RestoreManifest, actors: int) -> Workforce:
    make: Callable[[], Restore] = partial(_Commit, manifest, {})
    pool = manifest.pools.restore
    return Workforce(
        hire=lambda: actor_class(pool).remote(make),
        finish=lambda rows, attempt: ray.remote(_commit).options(num_cpus=0).remote(make, rows, attempt),
        give_up=given_up,
        note_loss=lambda image_ids, losses: None,
        least=pool.min,
        most=actors,
        capacity=pool.resident_adapters,
        wait_s=60.0,
    )


def _commit(make: Callable[[], Restore], rows: pa.Table, attempt: int) -> dict[str, Any]:
    return make()(rows, attempt)
