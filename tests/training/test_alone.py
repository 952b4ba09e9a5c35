"""Who makes the batches, and how often each is used, changes nothing but the time."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fdi_lib.training.alone import fit
from fdi_lib.training.loop import FitSettings


class _Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))


def make_batch(number: int) -> dict[str, torch.Tensor]:
    """A picture whose halves differ, as a function that other processes find by its name."""
    x = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(number))
    return {"x": x, "y": 2 * x}


def train(folder: Path, steps: int = 8, **how: int) -> tuple[float, list[torch.Tensor]]:
    """The slope that is learnt, and what was seen."""
    model, seen = _Slope(), []

    def loss_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(batch["x"].clone())
        return {"loss": (model.slope * batch["x"] - batch["y"]).square().mean()}

    settings = FitSettings(steps, 0.05, warmup_steps=2, precision="fp32", checkpoint_every_steps=3, log_every_steps=4)
    fit(model, make_batch, loss_of, settings, folder, trackers=(), **how)
    return model.slope.item(), seen


@pytest.mark.parametrize("echo", [1, 2])
def test_processes_make_the_batches_that_a_thread_makes(tmp_path: Path, echo: int) -> None:
    (slope, seen), (other, found) = (train(tmp_path / str(n), workers=n, echo=echo) for n in (0, 2))
    assert slope == other != 0
    assert all(torch.equal(a, b) for a, b in zip(seen, found, strict=True))


def test_an_echo_is_the_batch_before_mirrored(tmp_path: Path) -> None:
    _, seen = train(tmp_path, echo=2)
    for step in range(0, 8, 2):
        assert torch.equal(seen[step], make_batch(step // 2)["x"])
        assert torch.equal(seen[step + 1], seen[step].flip(3))


def test_what_was_interrupted_goes_on_in_the_middle_of_an_echo(tmp_path: Path) -> None:
    undisturbed, _ = train(tmp_path / "whole", steps=9, echo=2)

    class StoppedError(Exception):
        pass

    model = _Slope()

    def fails(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fails.steps += 1  # type: ignore[attr-defined]
        if fails.steps > 4:  # type: ignore[attr-defined]
            raise StoppedError
        return {"loss": (model.slope * batch["x"] - batch["y"]).square().mean()}

    fails.steps = 0  # type: ignore[attr-defined]
    settings = FitSettings(9, 0.05, warmup_steps=2, precision="fp32", checkpoint_every_steps=3, log_every_steps=4)
    with pytest.raises(StoppedError):
        fit(model, make_batch, fails, settings, tmp_path / "part", trackers=(), echo=2)
    resumed, seen = train(tmp_path / "part", steps=9, echo=2)
    assert len(seen) == 6, "it goes on from the checkpoint after three steps"
    assert resumed == undisturbed
