"""Without Ray a training gives what it gives on Ray's workers, step by step, and refuses what needs Ray."""

# ruff: noqa: F811 - `preset` is a fixture that lies with the tests of the models

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdi_lib.manifest import TrainManifest
from fdi_lib.models.adapter import FDIAdapter
from jobs import train
from jobs.training.alone import main, run
from tests.models.conftest import preset  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two listed pictures, each just large enough for a tile."""
    root = tmp_path_factory.mktemp("pictures")
    lines = ["picture\tgroup_id\tkind\tsha256\tsplit\n"]
    for i, name in enumerate("ab"):
        pixels = np.random.default_rng(i).integers(0, 255, (300, 300, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
        sha256 = hashlib.sha256((root / f"{name}.png").read_bytes()).hexdigest()
        lines.append(f"{name}.png\t{name}\tphoto\t{sha256}\ttrain\n")
    (root / "list.tsv").write_text("".join(lines))
    return root


def settings(pictures: Path, preset: Path, output: Path, **keys: object) -> dict[str, object]:
    return {
        "kind": "train", "task": "haze", "data": {"uri": str(pictures), "pictures": str(pictures / "list.tsv")},
        "models": {"encoder": str(preset / "encoder"), "base": str(preset / "base"), "bank": str(preset / "bank")},
        "output": str(output), "steps": 4, "batch": 2, "crop_px": 32, "warmup_steps": 1, "echo": 2,
        "checkpoint": {"every_steps": 2}, "watch": {"log_every_steps": 1, "validation_crops": 2, "trackers": []},
        "worker": {"cpus": 0.5, "memory_gib": 0.5},
    } | keys  # fmt: skip


def losses(output: Path) -> list[float]:
    rows = [json.loads(line) for line in (output / "training-log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(("echo", "cached_latents", "degradation"), [(2, 0, None), (1, 1, "noise")])
def test_it_takes_the_steps_that_workers_on_ray_take(
    pictures: Path, preset: Path, tmp_path: Path, echo: int, cached_latents: int, degradation: str | None
) -> None:
    data = {"uri": str(pictures), "pictures": str(pictures / "list.tsv"), "cached_latents": cached_latents}
    data |= {"degradation": degradation}
    alone, on_ray = (
        TrainManifest.model_validate(settings(pictures, preset, tmp_path / name, echo=echo, data=data))
        for name in ("alone", "ray")
    )
    here, there = run(alone, workers=1), train.run(on_ray)
    assert here["training_sha256"] == there["training_sha256"]
    assert losses(tmp_path / "alone") == pytest.approx(losses(tmp_path / "ray"), rel=1e-5)
    one, other = (FDIAdapter.from_pretrained(tmp_path / name).state_dict() for name in ("alone", "ray"))
    for name, value in one.items():
        np.testing.assert_allclose(value.numpy(), other[name].numpy(), atol=1e-3, err_msg=name)
    assert run(alone, workers=0)["already_done"]


@pytest.mark.usefixtures("ray_local")
def test_adapters_are_trained_together_with_and_without_ray(pictures: Path, preset: Path, tmp_path: Path) -> None:
    given = {"task": None, "tasks": ["noise", "haze"], "echo": 1}
    alone, on_ray = (
        TrainManifest.model_validate(settings(pictures, preset, tmp_path / name, **given)) for name in ("alone", "ray")
    )
    here, there = run(alone, workers=0), train.run(on_ray)
    assert here["training_sha256"] == there["training_sha256"] and here["task"] == "haze+noise"
    assert losses(tmp_path / "alone" / "haze") == pytest.approx(losses(tmp_path / "ray" / "noise"), rel=1e-5)
    for task in ("haze", "noise"):
        one, other = (FDIAdapter.from_pretrained(tmp_path / name / task) for name in ("alone", "ray"))
        assert one.config.task == task and one.config.together == ("haze", "noise")
        for name, value in one.state_dict().items():
            np.testing.assert_allclose(value.numpy(), other.state_dict()[name].numpy(), atol=1e-3, err_msg=name)
    assert run(alone, workers=0)["already_done"]
    goes_on = alone.model_copy(update={"initial": alone.output, "output": str(tmp_path / "on"), "steps": 1})
    assert not run(goes_on, workers=0)["already_done"]


def test_manifests_are_trained_in_turn_with_the_changes_that_are_given(
    pictures: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for task in ("haze", "noise"):
        path = tmp_path / f"{task}.yaml"
        path.write_text(json.dumps(settings(pictures, preset, tmp_path / task, task=task)))  # JSON is YAML
        paths.append(str(path))
    assert main([*paths, "steps=1"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["task"], row["steps"]) for row in said] == [("haze", 1), ("noise", 1)]
    assert (tmp_path / "noise" / "adapter.safetensors").is_file()


def test_pairs_of_somebodys_own_need_ray(
    pictures: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("degraded", "clean"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        for i in range(8):
            (tmp_path / "pairs" / side / f"{i}.png").write_bytes(b"")
    path = tmp_path / "pairs.yaml"
    data = {"kind": "pairs", "uri": str(tmp_path / "pairs")}
    path.write_text(json.dumps(settings(pictures, preset, tmp_path / "out", data=data)))
    assert main([str(path)]) == 2
    assert "data.kind = 'pairs'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
