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
from fdi_lib.manifest import BenchManifest, load_manifest
from jobs import bench
from jobs.bench_plain import Finished
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
    return BenchManifest.model_validate(base | {"repeats": 2} | settings)


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
    assert set(result["job_over_bare"]) == {"steady", "with_writes", "with_cold_start", "fake_device_steady"}
    assert result["job_over_bare"]["fake_device_steady"] is None
    assert all(result["job_over_bare"][name] > 0 for name in ("steady", "with_writes", "with_cold_start"))
    assert result["job_over_plain"] > 0
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
    assert result["job_over_plain"] is None and "over_plain" not in result["runs"][0]
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
    assert bench.steady(groups, "in") == (2.0, frozenset("efg"))
    with pytest.raises(ManifestError, match="too few images"):
        bench.steady(groups[:1], "in")
    with pytest.raises(ManifestError, match="too few images"):
        bench.steady(groups[:2], "in")


def test_what_is_not_measured_is_refused_by_name(tmp_path: Path) -> None:
    sections = ["job", "routing", "growth", "control_plane", "full_size"]
    with pytest.raises(ManifestError, match=r"sections: .*routing, growth, control_plane, full_size; .*job, plain"):
        bench.run(manifest_for(tmp_path, sections=sections), PARTS)
    gpu = load_manifest(str(Path(__file__).parents[2] / "manifests/bench/full-gpu.yaml"), [])
    assert isinstance(gpu, BenchManifest)
    with pytest.raises(ManifestError, match="does not measure full_size"):
        bench.run(gpu, PARTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["s3://bucket/bench", "in/bench"])
def test_an_output_that_cannot_be_used_is_refused(tmp_path: Path, output: str) -> None:
    uri = output if "://" in output else str(tmp_path / output)
    with pytest.raises(ManifestError, match="output"):
        bench.run(manifest_for(tmp_path, output=uri), PARTS)
    assert not list(tmp_path.iterdir())
