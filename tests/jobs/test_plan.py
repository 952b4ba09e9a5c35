"""A plan classifies, counts and estimates; it writes plan.parquet and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fdi_lib.manifest import RestoreManifest, StorageSettings
from fdi_lib.records import LEDGER
from fdi_lib.storage.ledger import write_part
from fdi_lib.storage.store import Store
from jobs import plan
from jobs.parts import Parts
from tests import fakes

PARTS = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)
POOLS = {"decode": {"cpus": 0.5, "memory_gib": 0.1}, "classify": {"cpus": 0.4, "memory_gib": 0.1, "max": 1}}


@pytest.fixture
def manifest(tmp_path: Path) -> RestoreManifest:
    source = tmp_path / "in"
    source.mkdir()
    for number, mean in enumerate((20, 60, 100, 100, 140)):
        Image.fromarray(np.full((500, 1000, 3), mean, np.uint8)).save(source / f"{number}.png")
    (source / "broken.png").write_bytes(b"")
    settings = {"kind": "restore", "source": {"uri": str(source)}, "output": {"uri": str(tmp_path / "out")}}
    return RestoreManifest.model_validate(settings | {"pools": POOLS})


def test_a_plan_counts_routes_and_writes_no_image(manifest: RestoreManifest, ray_local: None) -> None:
    summary = plan.run(manifest, PARTS)
    counts = {key: summary[key] for key in ("images", "to_restore", "clean", "kept", "review", "failed")}
    assert counts == {"images": 6, "to_restore": 3, "clean": 1, "kept": 0, "review": 1, "failed": 1}
    assert {route: found["images"] for route, found in summary["routes"].items()} == {"noise": 2, "haze>noise": 1}
    megapixels = 2 * 0.5 * 1 + 0.5 * 2  # a progressive pair passes twice
    assert summary["gpu_hours"] == pytest.approx(megapixels * plan.ASSUMED_SECONDS_PER_MP / 3600, abs=1e-4)
    assert summary["seconds_from"] == "an assumed constant"
    assert [path.name for path in Path(manifest.output.uri).rglob("*")] == ["plan.parquet"]
    table = pq.read_table(summary["plan"])
    assert table.num_rows == 6 and "views" not in table.column_names


def test_measured_seconds_replace_the_constant(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "out"), StorageSettings())
    row = dict.fromkeys(LEDGER.names) | {"image_id": "a.png", "attempt": 1, "status": "restored", "route": "noise"}
    row |= {"width": 1000, "height": 2000, "seconds": 3.0}
    write_part(store, pa.Table.from_pylist([row], schema=LEDGER), 1)
    assert plan._measured(store) == {"noise": 1.5}
