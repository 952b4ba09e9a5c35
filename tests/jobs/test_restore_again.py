"""What the job does twice: a source that changed is classified again, an adapter that does not load tried elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from fdi_lib.manifest import StorageSettings
from jobs import restore, verify
from tests import fakes
from tests.jobs.test_restore import PARTS, POOLS, manifest_for, png, rows_of

pytestmark = pytest.mark.usefixtures("ray_local")


def test_a_source_that_changes_under_the_job_is_classified_again(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("meddled.png", "restless.png", "still.png"):
        (source / name).write_bytes(png(100))  # all of them noisy, before somebody changes two
    summary = restore.run(manifest_for(source, tmp_path / "out"), replace(PARTS, classifier=fakes.make_meddling))
    assert (summary["images"], summary["restored"], summary["failed"]) == (3, 2, 1)
    rows = rows_of(tmp_path / "out")
    assert (rows["still.png"]["route"], rows["meddled.png"]["route"]) == ("noise", "scratch")
    assert rows["meddled.png"]["source_sha256"] == hashlib.sha256((source / "meddled.png").read_bytes()).hexdigest()
    assert rows["restless.png"]["reason"] == "source_changed" and "3 times" in rows["restless.png"]["detail"]
    found = verify.run(str(tmp_path / "out"), StorageSettings())["found"]
    assert [(one["what"], one["name"]) for one in found] == [("source changed after its row", "restless.png")]


@pytest.mark.parametrize("actors", [1, 2])
def test_an_adapter_that_does_not_load_is_tried_on_another_worker(tmp_path: Path, actors: int) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, mean in enumerate((100, 200, 201)):
        (source / f"{number}.png").write_bytes(png(mean))
    pools = POOLS | {"restore": {"cpus": 0.5, "memory_gib": 0.1, "max": actors}}
    parts = replace(PARTS, restorer=fakes.make_picky_once)
    summary = restore.run(manifest_for(source, tmp_path / "out", pools=pools), parts)
        manifest_for(source, tmp_path / "out", pools=pools), replace(PARTS, restorer=fakes.make_picky_once)
    )
    assert (summary["restored"], summary["failed"], summary["restore_actors"]) == (3, 0, 2)


def test_the_images_of_an_adapter_that_loads_nowhere_fail_and_the_others_are_done(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02d}.png").write_bytes(png(200 if number % 2 else 100))
    manifest = manifest_for(source, tmp_path / "out", limits={"max_failed_fraction": 1.0})
    summary = restore.run(manifest, replace(PARTS, restorer=fakes.make_picky))
    assert (summary["restored"], summary["failed"], summary["restore_actors"]) == (20, 20, 2)
    row = rows_of(tmp_path / "out")["01.png"]
    assert row["reason"] == "adapter_failed" and row["detail"] == "adapter scratch does not load: its file is broken"
    summary = restore.retry(str(tmp_path / "out"), PARTS)
    assert (summary["restored"], summary["failed"]) == (40, 0)
    assert verify.run(str(tmp_path / "out"), StorageSettings())["found"] == []
