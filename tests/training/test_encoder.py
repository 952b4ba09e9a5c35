"""The encoder's samples: twins that differ by their damage alone, each picture more than once, by seed and step."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fdi_lib.errors import ManifestError
from fdi_lib.training import encoder
from fdi_lib.training.encoder import train_encoder
from fdi_lib.training.loop import FitSettings

KINDS = ("noise", "haze", "jpeg")
SETTINGS = FitSettings(2, warmup_steps=1, precision="fp32", log_every_steps=1)


def batch(step: int, versions: int = 2) -> dict[str, torch.Tensor]:
    return encoder._batch({}, KINDS, np.full(3, 1 / 3), versions, 0, 2, step)


def test_every_picture_comes_in_so_many_versions_twice_each() -> None:
    made = batch(0)
    assert made["clean"].shape == made["degraded"].shape == (8, 3, 96, 96, 3)
    assert made["clean"].dtype == torch.uint8
    assert made["picture"].tolist() == [0] * 4 + [1] * 4
    assert set(made["labels"].sum(1).tolist()) <= {1.0, 2.0}
    for first in range(0, 8, 2):  # both looks at a version tell of the same damage
        assert torch.equal(made["labels"][first], made["labels"][first + 1])


def test_a_step_has_its_own_samples_and_always_the_same() -> None:
    first, again, next_ = batch(3), batch(3), batch(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["clean"], next_["clean"])


def test_twins_are_turned_mirrored_and_mixed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "degrade", lambda name, image, rng: 1 - image)
    made = batch(1)
    whole = slice(0, 1)  # crops are shown as their detail, around mid-grey
    difference = made["clean"][:, whole].int() + made["degraded"][:, whole].int() - 255
    assert difference.abs().max() <= 3  # rounded twice, once by the reduction


def test_a_batch_that_holds_no_whole_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"batch = '6'.*use a multiple of 4"):
        train_encoder({}, KINDS, SETTINGS, 6, 0, tmp_path, versions=2)


def test_it_learns_a_step_and_comes_back_frozen(tmp_path: Path) -> None:
    made = train_encoder({}, KINDS, SETTINGS, 4, 0, tmp_path, versions=2, trackers=())
    assert not any(p.requires_grad for p in made.parameters())
    assert (tmp_path / "log.jsonl").read_text().count('"loss"') == 2
