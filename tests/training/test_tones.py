"""What looks at tones learns to tell damage to them from clean pictures."""

from functools import partial

import numpy as np
import torch

from fdi_lib.training import tones as training
from fdi_lib.training.tones import train_tones

KINDS = ("haze", "noise")
make = partial(training._made, {}, KINDS, np.array([0.5, 0.5]), 48, 5)


def test_samples_depend_on_their_number_alone() -> None:
    first, again, other = make(3), make(3), make(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["clean"], other["clean"])
    assert first["clean"].shape == (16, 78) and first["damaged"].shape == (96, 78)
    assert set(first["labels"].sum(1).tolist()) == {1.0, 2.0}


def test_pale_skies_are_among_the_samples(monkeypatch) -> None:
    made = []
    monkeypatch.setattr(training, "pale", lambda side, rng: made.append(side) or training.clean_scene({}, rng, (side,)))
    for number in range(8):
        make(number)
    assert 4 <= len(made) <= 30  # a ninth of 128


def test_it_tells_haze_from_clean_pictures_that_it_has_not_seen() -> None:
    tones, _ = train_tones(32, {}, KINDS, 48, 5, pictures=96)
    new = make(100)
    clean, damaged = tones(new["clean"])[:, 0], tones(new["damaged"])[:, 0]
    limit = clean.quantile(0.9)
    assert (damaged[new["labels"][:, 0] == 1] > limit).float().mean() > 0.6
    assert tones.out.out_features == len(KINDS)
    assert not any(p.requires_grad for p in tones.parameters())
