"""Shipped adapters by every schedule, and adapters trained for each start, on calibration pictures; rows are kept."""

# ruff: noqa: F811 - fixtures that lie elsewhere
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from fdi_lib.core.decision import told
from fdi_lib.core.protocol import Sample, Tile
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.configs import read_config
from fdi_lib.models.presets import ModelFolders, model_folders
from fdi_lib.models.restorer import Restorer
from fdi_lib.models.sampling import Schedule
from jobs.benches import recipes
from jobs.benches.starts import Bench
from jobs.benches.starts_table import Sampler, grid
from tests.jobs.short_recipes import SPLITS, out, preset  # noqa: F401 - fixtures
from tests.models.conftest import models  # noqa: F401 - a fixture

TILE_PX = 64
STEPS = (1, 2)


@pytest.fixture
def folders(models: ModelSettings) -> ModelFolders:
    return model_folders(models)


@pytest.mark.parametrize("start", [("input", 0.5, 1, 1.0), ("noised_input", 0.4, 3, 0.3), ("pure_noise", 1.0, 2, 1.0)])
def test_a_sampler_gives_what_a_restorer_gives(models: ModelSettings, folders: ModelFolders, start: Any) -> None:
    clean = np.random.default_rng(0).integers(0, 256, (TILE_PX, TILE_PX, 3), np.uint8)
    sample, schedule = Sample(("haze",), Tile("p", 0, clean), clean // 2, 5), Schedule(*start)
    chosen = RestoreSettings(tile_px=TILE_PX, overlap_px=16, **vars(schedule))
    restorer = Restorer.from_settings(models, ClassifySettings(), chosen)
    assert restorer.schedule(("haze",)) == schedule
    expected = restorer.restore([sample.pixels], [told(["haze"])], [sample.noise_key])[0]
    sampler = Sampler(folders, TILE_PX)
    assert sampler.own("haze") == Schedule("input", 0.5, 1, 1.0)
    assert np.array_equal(sampler.restored("haze", sample, schedule), expected)


def test_rows_of_shipped_adapters_are_kept(
    out: Path, folders: ModelFolders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (out.parent / "pictures" / f"{SPLITS.index('test')}.png").unlink()  # the test pictures take no part
    bench, before = Bench(out, 3, STEPS, TILE_PX), ray.is_initialized()
    rows = bench.shipped(["haze"], folders)
    kept = json.loads((out / "starts.json").read_text())
    wanted = grid(Schedule("input", 0.5, 1, 1.0), STEPS)
    assert len(kept["shipped"]["haze"]["rows"]) == len(wanted) == rows[0]["of"]
    assert kept["split"] == "calibration" and kept["summary_shipped"] == rows
    assert rows[0]["own"] == "input 0.5, 1 step" and rows[0]["difference_db"] >= 0
    assert (rows[0]["difference_db"] == 0) == (rows[0]["rank"] == 1)
    shown = capsys.readouterr().out
    assert "haze: 3 tiles, input" in shown and "input 0.5, 1 step <- shipped" in shown and "Best schedule" in shown
    assert ray.is_initialized() == before, "it needs none"

    def restores(*_: Any) -> None:
        raise RuntimeError("restored again")

    monkeypatch.setattr(Sampler, "restored", restores)
    assert bench.shipped(["haze"], folders) == rows
    for other in (replace(bench, tiles=2), replace(bench, steps=(1, 2, 4))):
        with pytest.raises(RuntimeError, match="restored again"):
            other.shipped(["haze"], folders)


def test_an_adapter_that_is_not_there_is_named(out: Path, folders: ModelFolders) -> None:
    with pytest.raises(ManifestError, match=r"--tasks = 'fog': no adapter of this name; use some of: haze, jpeg"):
        Bench(out).shipped(["fog"], folders)


def test_an_adapter_is_trained_for_each_start_and_kept(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(out, 2, STEPS, TILE_PX)
    rows = bench.trained(["haze"], 2, 1)
    configs = [read_config(folder) for folder in sorted((out / "trained").iterdir())]
    starts = {(config["init"], config["start_t"]) for config in configs}
    assert starts == {(init, level) for init in ("input", "noised_input") for level in (0.35, 0.175, 0.525)}
    assert len({config["training_sha256"] for config in configs}) == len(configs) == 6
    kept = json.loads((out / "starts.json").read_text())
    assert {(row["init"], row["start_t"]) for row in kept["trained"]["haze"]["rows"]} == starts
    assert rows[0]["of"] == 6 * 3 and rows[0]["own"] == "input 0.35, 1 step" and kept["summary_trained"] == rows
    assert "input 0.35, 1 step <- the recipe's" in capsys.readouterr().out

    def trains(*_: Any, **how: Any) -> None:
        raise RuntimeError(how["folder"].name)

    monkeypatch.setattr(recipes, "train_adapter", trains)
    assert bench.trained(["haze"], 2, 1) == rows
    with pytest.raises(RuntimeError, match=r"haze-input-0\.35-"):  # of other settings: none of what is there counts
        bench.trained(["haze"], 3, 1)
