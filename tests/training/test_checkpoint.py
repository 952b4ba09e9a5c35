"""A checkpoint brings everything back, belongs to one shape of model, and says so when the disk is full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from fdi_lib.errors import WeightsError
from fdi_lib.training.checkpoint import TrainState


def state(width: int = 3) -> TrainState:
    model = nn.Linear(width, 2)
    trained = dict(model.named_parameters())
    average = {name: p.detach().clone() for name, p in trained.items()}
    return TrainState(trained, average, torch.optim.AdamW(trained.values()))


def stepped() -> TrainState:
    made = state()
    for p in made.trained.values():
        p.grad = torch.ones_like(p)
    made.optimizer.step()
    made.follow(0.5)
    return made


def test_everything_comes_back(tmp_path: Path) -> None:
    made, log = stepped(), tmp_path / "now.jsonl"
    log.write_text("{}\n")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    made.save(folder, 7, log)
    drawn = torch.rand(3)
    log.write_text("{}\n{}\n")  # lines of steps that the checkpoint doesn't hold
    other = state()
    assert other.load(folder, log) == 7
    for name, p in made.trained.items():
        assert torch.equal(other.trained[name], p) and torch.equal(other.average[name], made.average[name])
    assert torch.equal(torch.rand(3), drawn)
    assert log.read_text() == "{}\n"
    assert other.optimizer.state_dict()["state"][0]["step"] == 1


def test_another_model_is_refused(tmp_path: Path) -> None:
    stepped().save(tmp_path, 1, tmp_path / "none")
    with pytest.raises(WeightsError, match="another model"):
        state(width=4).load(tmp_path, None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "state.pt").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        stepped().save(tmp_path, 1, tmp_path / "none")
    assert caught.value.errno == errno.ENOSPC


def test_swapping_twice_changes_nothing() -> None:
    made = stepped()
    before = {name: p.detach().clone() for name, p in made.trained.items()}
    average = {name: v.clone() for name, v in made.average.items()}
    made.swap()
    assert all(torch.equal(made.trained[name], average[name]) for name in before)
    made.swap()
    assert all(torch.equal(made.trained[name], before[name]) for name in before)
