"""Every variant is trained by the recipe and measured; what is finished is kept; the order is read off the means."""

# ruff: noqa: F811 - fixtures that lie elsewhere
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.benches import recipes
from jobs.benches.ablation import VARIANTS, run, summary
from tests.jobs.short_recipes import out, preset  # noqa: F401 - fixtures


def test_finished_variants_are_kept(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    first = run(out, 4, 1, ["haze"], 2)
    figures = first["tasks"]["haze"]
    assert json.loads((out / "ablation.json").read_text()) == first and first["steps"] == 4
    sizes = {name: figures[name]["parameters"] for name in VARIANTS}
    assert sizes["base"] == 0 < sizes["addition"] < sizes["decoupling"] < sizes["full"]
    assert len({figures[name]["psnr_out"] for name in VARIANTS}) == len(VARIANTS), "every variant has its own weights"
    shown = capsys.readouterr().out
    assert all(name in shown for name in VARIANTS) and "as in the paper: " in shown

    def trains(*_: Any, **how: Any) -> None:
        raise RuntimeError(how["folder"].name)

    monkeypatch.setattr(recipes, "train_adapter", trains)
    assert run(out, 4, 1, ["haze"], 2) == first
    (out / "haze-decoupling.json").unlink()
    with pytest.raises(RuntimeError, match="haze-decoupling-"):
        run(out, 4, 1, ["haze"], 2)
    with pytest.raises(RuntimeError, match="haze-modulator-"):  # of other settings: none of what is there counts
        run(out, 6, 1, ["haze"], 2)


@pytest.mark.parametrize(("full", "same"), [(25.0, True), (22.0, False)])
def test_the_order_of_the_paper_is_that_of_the_means(full: float, same: bool) -> None:
    values = {"base": 15.0, "modulator": 16.0, "addition": 1.0, "decoupling": 23.0, "full": full}
    rows = {
        task: {"psnr_in": 10.0 + shift} | {name: {"psnr_out": value + shift} for name, value in values.items()}
        for task, shift in (("haze", -1.0), ("noise", 1.0))
    }
    found = summary(rows)
    assert found["mean"] == {"psnr_in": 10.0} | values and found["as_in_the_paper"] is same
