"""``fdi plan``: classify only. Says what a restoration would do, take and need; writes ``plan.parquet`` and no image.

Does NOT route or restore. Its seconds come from an earlier run's ledger where the output holds one, else from a
constant.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fdi_lib.core.decision import parse_route
from fdi_lib.manifest import RestoreManifest
from fdi_lib.manifest.locations import redact
from fdi_lib.records import DECISION, Status
from fdi_lib.stages.decode import Decode
from fdi_lib.storage import ledger
from fdi_lib.storage.run import refuse_strangers
from fdi_lib.storage.store import Store
from jobs.parts import Parts
from jobs.pool import cluster
from jobs.preflight import preflight
from jobs.stream import decisions

log = logging.getLogger(__name__)
PLAN_FILE = "plan.parquet"
# Where nothing was measured: one adapter on a GPU, SD 2.1-shaped, 20 steps, 512 px tiles overlapping by a quarter.
ASSUMED_SECONDS_PER_MP = 4.0
_SIDECAR_BYTES = 3000
_RAW_BYTES = {"tiff": 3.0, "png": 2.2, "jpeg": 0.6}  # bytes per pixel of a photograph, 8 bit RGB


def run(manifest: RestoreManifest, parts: Parts | None = None) -> dict[str, Any]:
    """Classify the source and return the estimate: counts per status and route, GiB of output, GPU-hours."""
    parts = parts or Parts()
    output = Store.open(manifest.output.uri, manifest.output.storage)
    preflight(manifest, parts)
    refuse_strangers(output)
    estimate = _Estimate(manifest, output)
    with cluster(manifest.pools, manifest.limits.wait_s, restoring=False), tempfile.TemporaryDirectory() as folder:
        decode = Decode(manifest, parts.view_spec(manifest.models))
        rows = decisions(manifest, decode, lambda: parts.classifier(manifest), note_listing=False)
        path = Path(folder, PLAN_FILE)
        with pq.ParquetWriter(path, DECISION, compression="zstd") as writer:
            for table in estimate.watch(rows):
                writer.write_table(table)
        output.replace(PLAN_FILE, path.read_bytes())
    if not estimate.statuses:
        log.warning("%s holds no image", redact(manifest.source.uri))
    return estimate.summary() | {"output": output.uri(), "plan": output.uri(PLAN_FILE)}


class _Estimate:
    """Adds up what a restoration would cost."""

    def __init__(self, manifest: RestoreManifest, output: Store) -> None:
        self.manifest = manifest
        self.seconds_per_mp = _measured(output)
        self.statuses: Counter[str] = Counter()
        self.routes: dict[str, dict[str, float]] = defaultdict(
            lambda: {"images": 0, "megapixels": 0.0, "gpu_hours": 0.0}
        )
        self.bytes = 0.0

    def watch(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Pass rows on, counting them."""
        for table in tables:
            for row in table.select(["status", "route", "width", "height", "source_bytes"]).to_pylist():
                self._add(row)
            yield table

    def summary(self) -> dict[str, Any]:
        """The estimate."""
        counts = {status.value: self.statuses[status] for status in Status if status != Status.RESTORED}
        routes = dict(sorted(self.routes.items(), key=lambda item: -item[1]["images"]))
        return {
            "images": sum(self.statuses.values()),
            "to_restore": self.statuses[""],
            **counts,
            "storage_gib": round(self.bytes / 2**30, 3),
            "gpu_hours": round(sum(route["gpu_hours"] for route in routes.values()), 4),
            "seconds_from": "an earlier run in this output" if self.seconds_per_mp else "an assumed constant",
            "routes": {name: {key: round(value, 4) for key, value in route.items()} for name, route in routes.items()},
        }

    def _add(self, row: dict[str, Any]) -> None:
        self.statuses[row["status"]] += 1
        if row["status"] in (Status.FAILED, Status.REVIEW):
            return
        pixels = (row["width"] or 0) * (row["height"] or 0)
        target = self.manifest.output.image.format
        per_pixel = _RAW_BYTES.get(target) if not row["status"] else None
        self.bytes += _SIDECAR_BYTES + (per_pixel * pixels if per_pixel else row["source_bytes"])
        if not row["status"]:
            route = self.routes[row["route"]]
            assumed = ASSUMED_SECONDS_PER_MP * len(parse_route(row["route"]))
            route["images"] += 1
            route["megapixels"] += pixels / 1e6
            route["gpu_hours"] += self.seconds_per_mp.get(row["route"], assumed) * pixels / 1e6 / 3600


def _measured(output: Store) -> dict[str, float]:
    """Seconds per megapixel of each route that an earlier run restored here; empty without one."""
    rows = ledger.load_effective(output, ["status", "route", "width", "height", "seconds"])
    rows = rows.filter(pc.equal(rows["status"], Status.RESTORED.value))
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows.to_pylist():
        spent[row["route"]][0] += row["seconds"]
        spent[row["route"]][1] += row["width"] * row["height"] / 1e6
    return {route: seconds / megapixels for route, (seconds, megapixels) in spent.items()}


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["plan", *sys.argv[1:]]))
