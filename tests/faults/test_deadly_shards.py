"""The job with Parquet shards that crash or hang their reader: what they gave is done, one row stands for the rest."""

from __future__ import annotations

import os
from pathlib import Path

from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.pack import parquet_bytes
from jobs import verify
from tests.deadly import BEFORE, HOOK, deadly
from tests.faults.world import World
from tests.jobs.test_restore import png
from tests.session import ROOT


def test_shards_that_kill_their_reader_end_as_failed_rows(tmp_path: Path) -> None:
    source, hook = tmp_path / "in", tmp_path / "hook"
    source.mkdir()
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    images = [(f"{mean}.png", png(mean)) for mean in range(90, 90 + BEFORE + 4)]
    for name, data in {
        "crash": deadly("crash", images),
        "hang": deadly("hang", images),
        "whole": parquet_bytes(images),
    }.items():
        (source / f"{name}.parquet").write_bytes(data)
    limits = {"max_failed_fraction": 0.5, "wait_s": 60.0, "timeout_s": 10.0}
    world = World(source, tmp_path / "out", limits=limits)
    with world.driver({"PYTHONPATH": f"{hook}{os.pathsep}{ROOT}"}) as driver:
        summary = driver.summary()
    assert (summary["images"], summary["failed"]) == (2 * (BEFORE + 1) + len(images), 2)
    failed = {image_id: row["reason"] for image_id, row in world.rows().items() if row["status"] == "failed"}
    assert failed == {"crash.parquet": "decoder_died", "hang.parquet": "timeout"}
    # Seen by a reader that nothing kills, what the shards did not give has no row, and that is said.
    found = {one["what"] for one in verify.run(str(world.output), StorageSettings())["found"]}
    assert found == {"source image without a row", "row without a source image"}
