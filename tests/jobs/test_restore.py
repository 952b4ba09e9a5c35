"""The job end to end on a small local Ray, with fakes for models: all is accounted for, once, with the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fdi_lib.errors import FDIError, ManifestError, StorageRefusedError
from fdi_lib.manifest import RestoreManifest, SourceSettings, StorageSettings
from fdi_lib.storage import ledger
from fdi_lib.storage.attempts import suspects
from fdi_lib.storage.store import UNFINISHED, Store
from jobs import plan, restore, verify
from jobs.parts import Parts
from tests import fakes

PARTS = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)
POOLS = {
    "decode": {"cpus": 0.5, "memory_gib": 0.1},
    "classify": {"cpus": 0.4, "memory_gib": 0.1, "max": 1, "batch": 4},
    "restore": {"cpus": 0.5, "memory_gib": 0.1, "max": 1},
}


def png(mean: int, size: tuple[int, int] = (48, 64)) -> bytes:
    pixels = np.random.default_rng(mean).integers(mean - 5, mean + 6, (*size, 3)).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


def jpeg(mean: int) -> bytes:
    sink = io.BytesIO()
    with Image.open(io.BytesIO(png(mean))) as image:
        image.save(sink, "jpeg")
    return sink.getvalue()


def archive(folder: Path) -> Path:
    """Two tars: 4 clean, 2 unknown, 12 damaged, 3 broken; a plain file; and a text that is no image."""
    folder.mkdir(parents=True)
    means = [20, 20, 21, 22, 60, 61, *range(90, 96), 140, 141, 142, 200, 201, 202]
    files = {f"{i:04d}.png": png(mean) for i, mean in enumerate(means)}
    files |= {"b0.jpg": b"", "b1.png": b"text", "b2.png": png(90)[:-100]}
    for shard, names in (("a", sorted(files)[::2]), ("b", sorted(files)[1::2])):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
    (folder / "plain.png").write_bytes(png(99))
    (folder / "notes.txt").write_text("no image")
    return folder


def manifest_for(source: Path, folder: Path, **settings: Any) -> RestoreManifest:
    base = {"kind": "restore", "source": {"uri": str(source)}, "output": {"uri": str(folder)}, "pools": POOLS}
    return RestoreManifest.model_validate(base | {"limits": {"max_failed_fraction": 0.5, "wait_s": 30.0}} | settings)


def tree(output: Path) -> dict[str, str]:
    """Hashes of all images and sidecars."""
    files = sorted(path for path in (output / "images").rglob("*") if path.is_file())
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    store = Store.open(str(output), StorageSettings())
    return {row["image_id"]: row for row in ledger.load_effective(store).to_pylist()}


pytestmark = pytest.mark.usefixtures("ray_local")


def test_everything_is_accounted_for_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    manifest = manifest_for(archive(tmp_path / "in"), tmp_path / "out")
    summary = restore.run(manifest, PARTS)
    statuses = {
        key: summary[key] for key in ("images", "restored", "clean", "kept", "review", "failed", "already_done")
    }
    assert statuses == {
        "images": 22, "restored": 13, "clean": 4, "kept": 0, "review": 2, "failed": 3, "already_done": 0,
    }  # fmt: skip
    out = tmp_path / "out"
    rows = rows_of(out)
    clean = rows["a.tar/0000.png"]
    assert clean["status"] == "clean" and clean["output_sha256"] == clean["source_sha256"]
    restored = rows["b.tar/0013.png"]
    assert restored["composition"] == "haze:0.50>noise:1.00" and restored["steps"] == 8
    assert [adapter["name"] for adapter in restored["adapters"]] == ["haze", "noise"]
    data = (out / "images/b/0013.png").read_bytes()
    assert hashlib.sha256(data).hexdigest() == restored["output_sha256"] and len(data) == restored["output_bytes"]
    assert json.loads((out / "images/b/0013.png.json").read_text())["image_id"] == "b.tar/0013.png"
    assert {rows[i]["reason"] for i in rows if rows[i]["status"] == "failed"} == {
        "empty_file",
        "not_an_image",
        "truncated",
    }
    assert len(list((out / "failed").rglob("*.json"))) == 3 and len(list((out / "review").rglob("*.json"))) == 2
    info = json.loads((out / "run.json").read_text())
    assert info["finished"] and info["ignored"] == {"txt": 1}

    before = tree(out)
    again = restore.run(manifest, PARTS)
    assert again["already_done"] == again["images"] == 22 and again["units"] == 0
    assert tree(out) == before

    (tmp_path / "in/late.png").write_bytes(png(98))
    left = out / UNFINISHED / "of-a-killed-writer"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    more = restore.run(manifest, PARTS)
    assert (more["images"], more["already_done"], more["restored"]) == (23, 22, 14)
    assert not left.parent.exists()


def test_one_and_two_actors_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    source = archive(tmp_path / "in")
    summaries = []
    for actors in (1, 2):
        pools = POOLS | {"restore": {"cpus": 0.5, "memory_gib": 0.1, "min": actors, "max": actors}}
        manifest = manifest_for(source, tmp_path / f"out{actors}", pools=pools)
        parts = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_slow)
        summaries.append(restore.run(manifest, parts))
    assert [summary["restore_actors"] for summary in summaries] == [1, 2]
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")
    assert len({row["worker"] for row in rows_of(tmp_path / "out2").values() if row["status"] == "restored"}) == 2


def test_an_image_that_kills_its_worker_stands_alone_in_failed(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(6):
        (source / f"{number}.png").write_bytes(png(100 + number, (48, 66 if number == 3 else 64)))
    parts = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_deadly)
    summary = restore.run(manifest_for(source, tmp_path / "out"), parts)
    assert (summary["restored"], summary["failed"]) == (5, 1)
    assert rows_of(tmp_path / "out")["3.png"]["reason"] == "worker_died"
    losses = suspects(Store.open(str(tmp_path / "out"), StorageSettings()), 1)
    assert losses["3.png"] == 3 and all(
        losses[f"{number}.png"] < 3 for number in (0, 1, 2, 4, 5) if f"{number}.png" in losses
    )


def test_a_refused_candidate_waits_for_review_and_retry_runs_only_that(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, mean in enumerate((20, 100, 101)):
        (source / f"{number}.png").write_bytes(png(mean))
    manifest = manifest_for(source, tmp_path / "out")
    blank = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_blank)
    summary = restore.run(manifest, blank)
    assert (summary["clean"], summary["review"]) == (1, 2)
    assert (tmp_path / "out/review/1.png").exists() and rows_of(tmp_path / "out")["1.png"]["reason"] == "gate"
    summary = restore.retry(str(tmp_path / "out"), PARTS)
    assert (summary["images"], summary["restored"], summary["already_done"]) == (3, 2, 1)
    assert rows_of(tmp_path / "out")["1.png"]["attempt"] == 2
    assert not list((tmp_path / "out/review").glob("*"))


def test_a_clearly_broken_run_stops_early_and_can_be_resumed(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(120):
        (source / f"{number:03d}.png").write_bytes(b"" if number < 80 else png(20))
    limits = {"max_failed_fraction": 0.01, "wait_s": 30.0}
    summary = restore.run(manifest_for(source, tmp_path / "out", limits=limits), PARTS)
    assert summary["stopped_early"] and summary["failed_fraction_exceeded"] and summary["images"] < 120
    assert json.loads((tmp_path / "out/run.json").read_text())["finished"] is None
    resumed = restore.run(manifest_for(source, tmp_path / "out", limits={"max_failed_fraction": 1.0}), PARTS)
    assert (resumed["images"], resumed["failed"], resumed["clean"]) == (120, 80, 40)
    # What was in flight when the run was stopped is in its counts.
    assert resumed["already_done"] == summary["images"] and not resumed["stopped_early"]


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StorageRefusedError, match="no such file or folder"):
        restore.run(manifest_for(tmp_path / "absent", tmp_path / "out"), PARTS)
    source = archive(tmp_path / "in")
    with pytest.raises(ManifestError, match=r"output\.layout.*plain\.png"):
        restore.run(
            manifest_for(source, tmp_path / "out", output={"uri": str(tmp_path / "out"), "layout": "parquet"}), PARTS
        )
    assert not (tmp_path / "out").exists()


def test_a_source_without_images_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    summary = restore.run(manifest_for(tmp_path / "in", tmp_path / "out"), PARTS)
    assert summary["images"] == 0 and f"{tmp_path / 'in'} holds no image" in caplog.text


def test_images_of_one_name_all_get_their_own_place(tmp_path: Path) -> None:
    source = archive(tmp_path / "in")
    for folder, mean in (("a", 23), ("b", 99)):
        (source / folder).mkdir()
        (source / folder / "0000.png").write_bytes(png(mean))  # clean, and damaged
    (source / "a/b0.jpg").write_bytes(b"")
    summary = restore.run(manifest_for(source, tmp_path / "out"), PARTS)
    assert (summary["images"], summary["failed"], summary["clean"]) == (25, 4, 5)
    rows = rows_of(tmp_path / "out")
    assert "output_conflict" not in {row["reason"] for row in rows.values()}
    names = {i: row["output_uri"].rpartition("/images/")[2] for i, row in rows.items() if "0000" in i}
    assert names == {"a/0000.png": "a/0000.png", "a.tar/0000.png": "a.tar/0000.png", "b/0000.png": "b/0000.png"}
    told = {str(path.relative_to(tmp_path / "out/failed")) for path in (tmp_path / "out/failed").rglob("*.json")}
    assert told == {f"{i}.json" for i, row in rows.items() if row["status"] == "failed"} and len(told) == 4
    assert verify.run(str(tmp_path / "out"), StorageSettings())["found"] == []


def test_members_that_become_one_format_all_get_their_own_place(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    members = {"x.png": png(100), "x.jpg": jpeg(101), "y.png": png(102)}
    with tarfile.open(source / "a.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    output = {"uri": str(tmp_path / "out"), "image": {"format": "tiff"}}
    summary = restore.run(manifest_for(source, tmp_path / "out", output=output), PARTS)
    assert (summary["images"], summary["restored"]) == (3, 3)
    names = sorted(path.name for path in (tmp_path / "out/images/a").iterdir() if path.suffix != ".json")
    assert names == ["x.jpg.tiff", "x.png.tiff", "y.tiff"]
    assert verify.run(str(tmp_path / "out"), StorageSettings())["found"] == []


def test_a_link_into_the_output_is_not_followed(tmp_path: Path) -> None:
    source = archive(tmp_path / "in")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/far.png").write_bytes(png(20))
    (source / "latest").symlink_to(tmp_path / "out")
    (source / "more").symlink_to(tmp_path / "more")
    for already_done in (0, 23):
        summary = restore.run(manifest_for(source, tmp_path / "out"), PARTS)
        assert (summary["images"], summary["already_done"]) == (23, already_done)
    assert json.loads((tmp_path / "out/run.json").read_text())["ignored"] == {"(link into the output)": 1, "txt": 1}
    assert verify.run(str(tmp_path / "out"), StorageSettings())["found"] == []


def test_an_inventory_says_what_is_done(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    means = {"forced.png": 20, "broken.png": 20, "other.png": 20, "free.png": 100, "seen.png": 21}
    for name, mean in means.items():
        (source / name).write_bytes(b"text" if name == "broken.png" else png(mean))
    right, wrong = hashlib.sha256(png(21)).hexdigest(), "0" * 64
    rows = ["uri,sha256,adapter,priority", "forced.png,,scratch,", "broken.png,,noise,", f"other.png,{wrong},noise,9"]
    (source / "list.csv").write_text("\n".join([*rows, "free.png,,,", f"seen.png,{right},,", "./free.png,,haze,"]))
    manifest = manifest_for(source, tmp_path / "out", restore={"strength": 0.5})
    listed = SourceSettings(uri=str(source / "list.csv"), format="inventory")
    manifest = manifest.model_copy(update={"source": listed})
    assert plan.run(manifest, PARTS)["routes"].keys() == {"scratch", "noise"}
    summary = restore.run(manifest, PARTS)
    assert (summary["images"], summary["restored"], summary["clean"], summary["failed"]) == (5, 2, 1, 2)
    found = rows_of(tmp_path / "out")
    forced = found["forced.png"]
    assert (forced["verdict"], forced["composition"], forced["status"]) == ("forced", "scratch:0.50", "restored")
    assert [adapter["name"] for adapter in forced["adapters"]] == ["scratch"] and not forced["scores"]
    sidecar = json.loads((tmp_path / "out/images/forced.png.json").read_text())
    assert sidecar["classification"]["verdict"] == "forced" and "inventory" in sidecar["outcome"]["detail"]
    assert (found["free.png"]["verdict"], found["free.png"]["route"]) == ("single", "noise")  # its first row counts
    other = found["other.png"]
    assert other["reason"] == "source_changed" and wrong in other["detail"]
    assert hashlib.sha256(png(20)).hexdigest() in other["detail"] and found["broken.png"]["reason"] == "not_an_image"
    assert json.loads((tmp_path / "out/run.json").read_text())["ignored"] == {"(repeated row)": 1}
    assert verify.run(str(tmp_path / "out"), StorageSettings())["found"] == []
    assert restore.retry(str(tmp_path / "out"), PARTS)["failed"] == 2


def test_a_cluster_that_is_too_small_gets_no_run(tmp_path: Path) -> None:
    pools = POOLS | {"restore": {"gpus": 64.0}}
    manifest = manifest_for(archive(tmp_path / "in"), tmp_path / "out", pools=pools, limits={"wait_s": 0.0})
    with pytest.raises(FDIError, match=r"the smallest pools need .* 64 GPUs"):
        restore.run(manifest, PARTS)
    assert not (tmp_path / "out").exists()
