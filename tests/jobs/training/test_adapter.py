"""``fdi train`` of an adapter, whole: on Ray, from a few stored pairs; killed workers and drivers; several workers."""

# ruff: noqa: F811 - `preset` is a fixture that lies with the tests of the models
from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fdi_lib.errors import FDIError, ManifestError, RunConflictError, WeightsError
from fdi_lib.manifest import StorageSettings, TrainManifest
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.storage.store import Store
from fdi_lib.training.loop import DivergedError
from jobs import adapters, train
from jobs.training.plan import bank_of, plan_of, recipe_of
from tests.models.conftest import preset  # noqa: F401 - a fixture
from tests.pairs import write_pairs
from tests.s3 import S3Server
from tests.session import Session


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve hazy pictures with their clean originals."""
    root = write_pairs(tmp_path_factory.mktemp("pairs"), "haze", 12, cells=6, digits=1)
    (root / "degraded" / "alone.png").write_bytes(b"")
    return root


def settings(pairs: Path, preset: Path, output: Path | str, **keys: object) -> TrainManifest:
    base = {
        "kind": "train", "task": "haze", "data": {"uri": str(pairs), "kind": "pairs", "validation_fraction": 0.3},
        "models": {"encoder": str(preset / "encoder"), "base": str(preset / "base"), "bank": str(preset / "bank")},
        "output": str(output), "steps": 6, "batch": 3, "crop_px": 32, "warmup_steps": 2,
        "checkpoint": {"every_steps": 3}, "watch": {"log_every_steps": 1, "validation_crops": 3},
        "worker": {"cpus": 0.5, "memory_gib": 0.5},
    }  # fmt: skip
    return TrainManifest.model_validate(base | keys)


def losses(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "training-log.jsonl").read_text().splitlines()]
    steps = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert list(steps) == list(range(1, len(steps) + 1)), "each step is logged once"
    return list(steps.values())


class Command(Session):
    """``fdi train`` as a process of its own."""

    def __init__(self, manifest: TrainManifest, folder: Path) -> None:
        path = folder / "manifest.yaml"
        path.write_text(manifest.model_dump_json())  # JSON is YAML
        super().__init__([sys.executable, "-m", "jobs.cli", "--json", "train", str(path)], folder / "stderr")


def until_step(work: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for log in work.glob("*/log.jsonl"):
            if log.read_text().count('"loss"') >= step:
                return
        time.sleep(0.1)
    raise AssertionError("the training doesn't get on")


@pytest.mark.usefixtures("ray_local")
def test_an_adapter_is_trained_once(pairs: Path, preset: Path, tmp_path: Path) -> None:
    manifest = settings(pairs, preset, tmp_path / "haze", workers=2)
    summary = train.run(manifest)
    assert not summary["already_done"] and summary["last"]["step"] == 6
    assert summary["pairs"] + summary["held_out"] == 12 and summary["left_out"] == 1
    assert 0 <= summary["accuracy_after"] <= 1 and 0 <= summary["recognised"] <= 1 and "monochrome" not in summary
    assert summary["measured"]["n"] == summary["held_out"] and "gain_db" in summary["measured"]
    listed = (tmp_path / "haze.training" / "pairs.tsv").read_text().splitlines()
    assert len(listed) == 14 and sum("\tleft_out\t" in line for line in listed) == 1
    card = yaml.safe_load((tmp_path / "haze" / "README.md").read_text().split("---")[1])
    assert card["model-index"][0]["results"][0]["metrics"][1]["value"] == round(summary["measured"]["gain_db"], 2)
    assert adapters.run(str(tmp_path), StorageSettings())["adapters"][0]["metrics"]["psnr_in"] > 0
    assert FDIAdapter.from_pretrained(tmp_path / "haze").config.task == "haze"
    assert len(losses(tmp_path / "haze")) == 6
    (work,) = (tmp_path / "haze.training").glob("haze-*")
    assert list(work.glob("tensorboard/events*")) and list(work.glob("images/step-*.png"))
    again = train.run(manifest.model_copy(update={"workers": 1}))
    assert again["already_done"]


@pytest.mark.usefixtures("ray_local")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_learn_what_one_learns(pairs: Path, preset: Path, tmp_path: Path) -> None:
    group: object
    for group in (1, 2, [1, 2]):  # three samples a step: of two workers the first has two, the second one
        train.run(settings(pairs, preset, tmp_path / str(group), workers=group, steps=30))
    assert losses(tmp_path / "1") == losses(tmp_path / "2") == losses(tmp_path / "[1, 2]")


@pytest.mark.usefixtures("ray_local")
@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_every_worker_and_keeps_the_checkpoint(
    pairs: Path,
    preset: Path,
    tmp_path: Path,
) -> None:
    manifest = settings(pairs, preset, tmp_path / "haze", workers=2, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(DivergedError, match=r"at step [1-5];"):
        train.run(manifest.model_copy(update={"checkpoint": manifest.checkpoint.model_copy(update={"every_steps": 1})}))
    assert not (tmp_path / "haze").exists()


def test_what_cannot_work_is_said_before_anything_starts(pairs: Path, preset: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for side in ("clean", "degraded"):
        (few / side).mkdir(parents=True)
        for i in range(3):
            shutil.copy(pairs / side / f"{i}.png", few / side)
    with pytest.raises(ManifestError, match="crop_px"):
        train.run(settings(pairs, preset, tmp_path / "o", crop_px=40))
    with pytest.raises(ManifestError, match="at least 8 are needed"):
        train.run(settings(pairs, preset, tmp_path / "o", data={"uri": str(few), "kind": "pairs"}))
    with pytest.raises(ManifestError, match="mlflow"):
        train.run(settings(pairs, preset, tmp_path / "o", watch={"trackers": ["mlflow"]}))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"base_sha256": "0" * 64}))
    with pytest.raises(WeightsError, match="was made for base 000000000000"):
        train.run(settings(pairs, preset, tmp_path / "o", initial=str(other)))
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="session")
def undisturbed(pairs: Path, preset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An adapter of 24 steps and two workers, and the command's summary."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Command(settings(pairs, preset, folder / "haze", workers=2, steps=24), folder) as command:
        return folder / "haze", command.summary()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["rank", "driver"])
def test_killed_and_taken_up(
    pairs: Path, preset: Path, tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]], victim: str
) -> None:
    expected, summary = undisturbed
    manifest = settings(pairs, preset, tmp_path / "haze", workers=2, steps=24)
    with Command(manifest, tmp_path) as command:
        until_step(tmp_path / "haze.training", 10)
        if victim == "rank":
            workers = command.pids(b"ray::RayTrainWorker")
            assert len(workers) == 2
            command.kill(workers[:1])
            found = command.summary()
    if victim == "driver":  # killed with its Ray, as when a machine goes down
        assert not (tmp_path / "haze").exists()
        with Command(manifest, tmp_path) as command:
            found = command.summary()
    assert losses(tmp_path / "haze") == losses(expected)
    assert found["last"]["validation_psnr"] == pytest.approx(summary["last"]["validation_psnr"], abs=0.05)


@pytest.mark.slow
@pytest.mark.s3
def test_checkpoints_and_adapter_on_s3(
    pairs: Path,
    preset: Path,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    output = f"s3://{s3_server.make_bucket()}/adapters/haze"
    manifest = settings(pairs, preset, output)
    with Command(manifest, tmp_path) as command:
        summary = command.summary()
    assert summary["output"] == output and not summary["already_done"]
    store = Store.open(output, StorageSettings())
    assert json.loads(store.read("training.json"))["last"]["step"] == 6
    run = Store.open(f"{output}.training", StorageSettings())
    kept = {entry.path.partition("/")[2] for entry in run.walk()}
    assert {"step-000000006/state.pt", "log.jsonl"} <= kept and any(n.startswith("images/") for n in kept)
    with Command(manifest, tmp_path) as command:
        assert command.summary()["already_done"]


def test_a_recipe_names_what_the_result_depends_on_and_nothing_else(pairs: Path, preset: Path, tmp_path: Path) -> None:
    first = settings(pairs, preset, tmp_path / "a")
    recipe = recipe_of(first, ["x"], "w")
    data = {"uri": str(tmp_path / "elsewhere"), "kind": "pairs", "validation_fraction": 0.3, "cache_mib": 1}
    moved = settings(pairs, preset, tmp_path / "b", data=data, workers=2, wait_s=1.0, max_failures=0)
    assert recipe_of(moved, ["x"], "w") == recipe
    assert recipe_of(first, ["y"], "w") != recipe != recipe_of(first, ["x"], "v")
    assert recipe_of(settings(pairs, preset, tmp_path / "a", seed=1), ["x"], "w") != recipe
    continued = settings(pairs, preset, tmp_path / "a", initial=str(preset / "adapters" / "haze"))
    assert recipe_of(continued, ["x"], "w") != recipe
    with pytest.raises(WeightsError, match=r"adapter\.safetensors not found"):
        recipe_of(settings(pairs, preset, tmp_path / "a", initial=str(tmp_path)), ["x"])
    assert plan_of(continued, ["x"], bank_of(continued)).model().adapter.config.task == "haze"


@pytest.mark.usefixtures("ray_local")
def test_a_pair_that_was_mended_is_learnt_from(pairs: Path, preset: Path, tmp_path: Path) -> None:
    """The same names with other pictures are another training."""
    mine = tmp_path / "mine"
    shutil.copytree(pairs, mine)
    manifest = settings(mine, preset, tmp_path / "haze", steps=3)
    first = train.run(manifest)
    Image.fromarray(255 - np.asarray(Image.open(mine / "degraded" / "3.png"))).save(mine / "degraded" / "3.png")
    with pytest.raises(RunConflictError, match=r"trained with other settings or data.*replace=true"):
        train.run(manifest)
    second = train.run(manifest.model_copy(update={"replace": True}))
    assert not second["already_done"] and second["training_sha256"] != first["training_sha256"]


@pytest.mark.usefixtures("ray_local")
def test_workers_that_the_cluster_cannot_hold_are_said(pairs: Path, preset: Path, tmp_path: Path) -> None:
    large = {"cpus": 64, "memory_gib": 0.5}
    with pytest.raises(FDIError, match=r"need 64 CPUs, .* the cluster has"):
        train.run(settings(pairs, preset, tmp_path / "o", worker=large, wait_s=0.0))
    assert not (tmp_path / "o").exists()
