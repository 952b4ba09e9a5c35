"""Every variant is trained by the recipe and measured; what is finished is kept; the order is read off the means."""

# ruff: noqa: F811 - `preset` is a fixture that lies with the tests of the models
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import yaml

from jobs import ablation_bench
from jobs.ablation_bench import VARIANTS, run, summary
from tests.models.conftest import preset  # noqa: F401 - a fixture


@pytest.fixture
def recipe(tmp_path: Path, preset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for haze on four small pictures, in place of the shipped ones; returns an output folder."""
    rows = ["picture\tgroup_id\tkind\tsha256\tsplit"]
    (tmp_path / "pictures").mkdir()
    for i, split in enumerate(("train", "train", "train", "test")):
        pixels = np.kron(np.random.default_rng(i).integers(90, 160, (20, 20, 3)), np.ones((30, 30, 1)))
        data = pyvips.Image.new_from_array(pixels.astype(np.uint8), interpretation="srgb").pngsave_buffer()
        (tmp_path / "pictures" / f"{i}.png").write_bytes(data)
        rows.append(f"{i}.png\tg{i}\tphoto\t{hashlib.sha256(data).hexdigest()}\t{split}")
    (tmp_path / "list.tsv").write_text("\n".join(rows))
    models = {"encoder": str(preset / "encoder"), "base": str(preset / "base"), "bank": str(preset / "bank")}
    (tmp_path / "haze.yaml").write_text(yaml.safe_dump({
        "kind": "train", "task": "haze", "models": models, "output": str(tmp_path / "adapter"), "batch": 2,
        "data": {"uri": str(tmp_path / "pictures"), "pictures": str(tmp_path / "list.tsv"), "kind": "clean"},
        "crop_px": 32,
    }))  # fmt: skip
    monkeypatch.setattr(ablation_bench, "_RECIPES", str(tmp_path / "{}.yaml"))
    return tmp_path / "out"


def test_finished_variants_are_kept(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    first = run(recipe, 4, 1, ["haze"], 2)
    figures = first["tasks"]["haze"]
    assert json.loads((recipe / "ablation.json").read_text()) == first and first["steps"] == 4
    sizes = {name: figures[name]["parameters"] for name in VARIANTS}
    assert sizes["base"] == 0 < sizes["addition"] < sizes["decoupling"] < sizes["full"]
    assert len({figures[name]["psnr_out"] for name in VARIANTS}) == len(VARIANTS), "every variant has its own weights"
    shown = capsys.readouterr().out
    assert all(name in shown for name in VARIANTS) and "as in the paper: " in shown

    def trains(*_: Any, **how: Any) -> None:
        raise RuntimeError(how["folder"].name)

    monkeypatch.setattr(ablation_bench, "train_adapter", trains)
    assert run(recipe, 4, 1, ["haze"], 2) == first
    (recipe / "haze-decoupling.json").unlink()
    with pytest.raises(RuntimeError, match="haze-decoupling-"):
        run(recipe, 4, 1, ["haze"], 2)
    with pytest.raises(RuntimeError, match="haze-modulator-"):  # of other settings: none of what is there counts
        run(recipe, 6, 1, ["haze"], 2)


@pytest.mark.parametrize(("full", "same"), [(25.0, True), (22.0, False)])
def test_the_order_of_the_paper_is_that_of_the_means(full: float, same: bool) -> None:
    values = {"base": 15.0, "modulator": 16.0, "addition": 1.0, "decoupling": 23.0, "full": full}
    rows = {
        task: {"psnr_in": 10.0 + shift} | {name: {"psnr_out": value + shift} for name, value in values.items()}
        for task, shift in (("haze", -1.0), ("noise", 1.0))
    }
    found = summary(rows)
    assert found["mean"] == {"psnr_in": 10.0} | values and found["as_in_the_paper"] is same
