"""The bench's bookkeeping with fakes for models: what is counted, written and refused. Never how long it took."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import BenchManifest
from jobs import bench
from jobs.benches import control, growth, job, routing
from jobs.benches.fake import FakeClassifier, FakeDevice, FakeRestorer, make_images
from jobs.benches.plain import Finished
from jobs.parts import Parts
from tests import fakes

PARTS = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)
POOLS = {
    "decode": {"cpus": 0.5, "memory_gib": 0.1},
    "classify": {"cpus": 0.4, "memory_gib": 0.1, "max": 1, "batch": 4},
    "restore": {"cpus": 0.5, "memory_gib": 0.1, "max": 1},
}
MEANS = [20, 21, 60, *range(90, 96), 140, 141, 142, 200, 201, 202]  # 2 clean, 1 unknown, 12 on three routes


def shards(folder: Path) -> Path:
    """Two tars with the images of MEANS in turn, and an empty file."""
    folder.mkdir(parents=True)
    files = {"broken.png": b""}
    for number, mean in enumerate(MEANS):
        pixels = np.random.default_rng(number).integers(mean - 5, mean + 6, (40, 48, 3)).astype(np.uint8)
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "png")
        files[f"{number}.png"] = sink.getvalue()
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for name in sorted(files)[shard::2]:
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
    return folder


def manifest_for(folder: Path, **settings: Any) -> BenchManifest:
    base = {"kind": "bench", "source": {"uri": str(folder / "in")}, "output": str(folder / "out"), "pools": POOLS}
    return BenchManifest.model_validate(base | {"repeats": 2, "fake_device": False} | settings)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The bench chooses its own number of threads; other tests must not see it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("ray_local")
def test_job_and_plain_way_are_counted_against_the_bare_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards(tmp_path / "in")
    result = bench.run(manifest_for(tmp_path), PARTS)
    assert json.loads((tmp_path / "out/bench.json").read_text()) == result
    assert {"job_over_bare", "job_over_plain", "machine", "versions"} <= set(result)
    assert (result["routing"], result["growth"]) == ([], []) and not any(result["control_plane"].values())
    real, fake = {"steady", "with_writes", "with_cold_start"}, {"fake_device_steady", "fake_device_with_writes"}
    assert set(result["job_over_bare"]) == real | fake
    assert result["job_over_bare"]["fake_device_steady"] is None and result["job_over_plain"] is None
    assert all(result["job_over_bare"][name] > 0 for name in ("steady", "with_writes", "with_cold_start"))
    assert result["job_over_plain_with_models"] > 0
    assert len(result["runs"]) == 2
    for run in result["runs"]:
        assert (run["images"], run["routes"], run["decided_otherwise"]) == (16, 3, 0)
        assert 0 < run["images_in_steady_state"] < 16
        assert run["job_loads"] == 3 < run["plain_loads"]
        assert all(run[f"bare_{stage}_s"] > 0 for stage in ("read", "decode", "classify", "restore", "write"))
    assert result["machine"]["cores"] >= 1 and result["versions"]["ray"]
    printed = capsys.readouterr().out
    assert "with_cold_start" in printed and "over_plain" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "table.txt"]


@pytest.mark.usefixtures("ray_local")
def test_a_section_that_was_not_asked_for_is_null(tmp_path: Path) -> None:
    shards(tmp_path / "in")
    result = bench.run(manifest_for(tmp_path, sections=["job"], repeats=1), PARTS)
    assert result["job_over_plain_with_models"] is None and "over_plain" not in result["runs"][0]
    assert result["job_over_bare"]["steady"] > 0


def test_steady_state_begins_when_every_worker_has_finished_something() -> None:
    groups = [
        Finished(1.0, frozenset("a"), ""),
        Finished(6.0, frozenset("e"), "two"),
        Finished(2.0, frozenset("b"), "one"),
        Finished(3.0, frozenset("c"), "one"),
        Finished(4.0, frozenset("d"), "two"),
        Finished(5.0, frozenset("fg"), ""),
    ]
    assert job.steady(groups, "in") == (2.0, frozenset("efg"))
    with pytest.raises(ManifestError, match="too few images"):
        job.steady(groups[:1], "in")
    with pytest.raises(ManifestError, match="too few images"):
        job.steady(groups[:2], "in")


@pytest.mark.usefixtures("ray_local")
def test_the_job_is_compared_with_a_fake_device_whose_adapters_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_FAKE_IMAGES", 96), ("_ADAPTER_BYTES", 1000)):
        monkeypatch.setattr(job, name, value)
    with_models = {"bare": {}, "runs": [dict.fromkeys([*job.RATIOS, "over_plain"], 1.0)]}
    monkeypatch.setattr(bench, "with_models", lambda *_: with_models)
    shards(tmp_path / "in")
    result = bench.run(manifest_for(tmp_path, fake_device=True, fake_image_px=[96, 128], repeats=1), PARTS)
    (run,) = result["fake_runs"]
    assert (run["images"], run["routes"], run["decided_otherwise"]) == (96, 8, 0)
    assert run["job_loads"] < run["plain_loads"]
    assert result["job_over_plain"] > 0 and result["job_over_bare"]["fake_device_steady"] > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "table.txt"]


def test_a_fake_device_sends_images_by_their_pixels_and_keeps_the_adapters_that_fit(tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "adapters", routes=4, zipf=1.0, tile_s=0.0, adapter_bytes=10)
    device.write_adapters()
    assert {path.stat().st_size for path in (tmp_path / "adapters").iterdir()} == {10}
    views = np.random.default_rng(0).integers(0, 256, (400, 2, 32, 32, 3)).astype(np.uint8)
    decisions = FakeClassifier(device).classify_views(views, [32] * 400)
    shares = np.array([sum(one.route == name for one in decisions) for name in device.names]) / 400
    assert np.abs(shares - device.shares).max() < 0.08 and device.shares[0] == pytest.approx(0.48)
    assert decisions == FakeClassifier(device).classify_views(views, [32] * 400)
    restorer, image = FakeRestorer(device, 2, 64, 16), np.zeros((8, 8, 3), np.uint8)
    for name, loads in (("00", 1), ("01", 2), ("00", 2), ("02", 3), ("00", 3), ("01", 4)):
        decision = next(one for one in decisions if one.route == f"adapter{name}")
        assert restorer.restore_each([image], [decision])[0].pixels is image and restorer.loads == loads


def test_the_images_of_a_bench_differ(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 70, (32, 48))
    seen = set()
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as tar:
            seen |= {tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert len(seen) == 70 and len(list(folder.iterdir())) == 2


@pytest.mark.usefixtures("ray_local")
def test_routing_loads_each_adapter_about_once_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_LOAD_S", 0.0), ("_IMAGE_S", 0.0), ("_LEAST_IMAGES", 512), ("_UNITS_A_ROUTE", 1)):
        monkeypatch.setattr(routing, name, value)
    monkeypatch.setattr(routing, "ROUTES", (4,))
    table = routing.measure()
    assert [(row["routes"], row["mix"]) for row in table] == [(4, "uniform")] * 3 + [(4, "Zipf")] * 3
    assert all(4 <= row["loads"] <= 16 and 16 <= row["units"] <= 24 for row in table)


@pytest.mark.usefixtures("ray_local")
def test_growth_is_of_whole_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_N", 160), ("_N_ACTORS", 100), ("TIMES", (1, 2)), ("ACTORS", (1,))):
        monkeypatch.setattr(growth, name, value)
    table = growth.measure(tmp_path)
    assert [(row["images"], row["actors"]) for row in table] == [(160, 2), (320, 2), (100, 1)]
    assert all(row["seconds_per_image"] > 0 and row["driver_mib"] > 50 for row in table)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ray_local")
def test_no_reference_is_lost_in_the_control_plane(tmp_path: Path) -> None:
    found = control.measure(3000, tmp_path)
    assert found["images"] == 3000 and found["images_per_s"] > 0 and found["ledger_parts"] >= 3000 / 32
    assert len(found["driver_mib_by_quarter"]) == 5 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["s3://bucket/bench", "in/bench"])
def test_an_output_that_cannot_be_used_is_refused(tmp_path: Path, output: str) -> None:
    uri = output if "://" in output else str(tmp_path / output)
    with pytest.raises(ManifestError, match="output"):
        bench.run(manifest_for(tmp_path, output=uri), PARTS)
    assert not list(tmp_path.iterdir())
