"""The loop trains what may train, resumes where it stopped, and stops at a loss that is not a number."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from fdi_lib.errors import ManifestError
from fdi_lib.training.alone import fit
from fdi_lib.training.loop import DivergedError, FitSettings, learning_rate_at

SETTINGS = FitSettings(steps=30, learning_rate=0.05, warmup_steps=3, precision="fp32", checkpoint_every_steps=10,
                       log_every_steps=10)  # fmt: skip


class _Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def _batch(step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(16, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": 2 * x + 1}


def _train(folder, settings=SETTINGS, loss_of=None):
    model = _Line()

    def loss(b):
        return {"loss": (model.slope * b["x"] + model.frozen - b["y"]).square().mean()}

    fit(model, _batch, loss_of or loss, settings, folder)
    return model


def test_it_learns_and_leaves_frozen_parameters(tmp_path):
    model = _train(tmp_path, FitSettings(steps=200, learning_rate=0.05, warmup_steps=3, precision="fp32"))
    assert abs(model.slope.item() - 2) < 0.1
    assert model.frozen.item() == 1
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 200 and rows[-1]["loss"] < rows[0]["loss"]


def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path):
    undisturbed = _train(tmp_path / "a")

    def stop_at_15(step: int) -> dict[str, torch.Tensor]:
        if step == 15:
            raise KeyboardInterrupt
        return _batch(step)

    model = _Line()
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            stop_at_15,
            lambda b: {"loss": (model.slope * b["x"] + 1 - b["y"]).square().mean()},
            SETTINGS,
            tmp_path / "b",
        )
    resumed = _train(tmp_path / "b")
    assert torch.equal(resumed.slope, undisturbed.slope)


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(tmp_path):
    seen = []

    def loss(b):
        seen.append(1)
        return {"loss": torch.tensor(float("nan") if len(seen) == 3 else 1.0, requires_grad=True)}

    _train(tmp_path, FitSettings(steps=10, warmup_steps=1, precision="fp32"))
    before = sorted(p.name for p in tmp_path.glob("checkpoint*"))
    with pytest.raises(DivergedError, match="step 12;"):
        _train(tmp_path, FitSettings(steps=20, warmup_steps=1, precision="fp32"), loss)
    assert sorted(p.name for p in tmp_path.glob("checkpoint*")) == before == ["checkpoint-000000010"]


def test_a_batch_in_parts_is_the_same_batch(tmp_path):
    whole = _train(tmp_path / "a")
    parts = _train(tmp_path / "b", replace(SETTINGS, parts=3))
    torch.testing.assert_close(whole.slope, parts.slope, rtol=1e-5, atol=0)


def test_fp16_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ManifestError, match="GPU"):
        _train(tmp_path, replace(SETTINGS, precision="fp16"))


def test_rate_rises_then_falls():
    rates = [learning_rate_at(s, SETTINGS) for s in range(31)]
    assert rates[0] < rates[2] == pytest.approx(0.05, rel=1e-6)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.001)


def test_curves_go_where_they_are_asked_for(tmp_path):
    for name, trackers in (("none", ()), ("one", ("tensorboard",))):
        fit(model := _Line(), _batch, lambda b: {"loss": (model.slope * b["x"] - b["y"]).square().mean()}, SETTINGS,
            tmp_path / name, trackers=trackers)  # fmt: skip
    assert list((tmp_path / "one").rglob("events.*"))
    assert not list((tmp_path / "none").rglob("events.*"))
