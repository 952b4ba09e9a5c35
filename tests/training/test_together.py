"""Adapters that are trained together guide the base as they will when images are restored, each sample by its own."""

import numpy as np
import pytest
import torch

from fdi_lib.models.adapter import AdapterConfig
from fdi_lib.models.base import Base
from fdi_lib.training import pairs
from fdi_lib.training.adapter import AdapterTraining, HeldOut, LossWeights, fresh_adapter, train_adapter
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.samples import shares, to_batch
from fdi_lib.training.together import MixedPairs, Together, TogetherTraining

TASKS = ("haze", "noise")
TILES = np.random.default_rng(0).integers(0, 255, (4, 48, 48, 3)).astype(np.uint8)
PAIRS = MixedPairs(TILES, TASKS)
MEAN = LossWeights()


def adapters(stirred=0.05, **use):
    base = Base.compact()
    made = []
    for k, task in enumerate(TASKS):
        config = AdapterConfig(task, tuple(base.channels), together=TASKS, **use)
        adapter = fresh_adapter(config, torch.randn(16, 128, generator=torch.Generator().manual_seed(k)), k)
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(stirred * torch.randn_like(p))
        made.append(adapter)
    return base, made


def training(weights=MEAN, recompute=False, **use):
    torch.manual_seed(0)
    base, made = adapters(**use)
    return TogetherTraining(base, Together(made), weights, recompute=recompute)


def test_samples_have_one_degradation_or_two_and_all_take_part_alike():
    weight_NK = np.stack([shares(i, 5, 3) for i in range(3000)])
    present_NK = weight_NK > 0
    assert set(present_NK.sum(1)) == {1, 2}
    alone = present_NK.sum(1) == 1
    assert 0.3 < alone.mean() < 0.37 and (weight_NK[alone].max(1) == 1).all()
    assert present_NK.mean(0) == pytest.approx(np.full(3, (1 / 3 + 2 * 2 / 3) / 3), abs=0.03)
    in_two = weight_NK[~alone][present_NK[~alone]]
    assert in_two.min() >= 0.6 and in_two.max() <= 1.25
    assert (shares(7, 5, 3) == shares(7, 5, 3)).all()


def test_a_sample_has_the_damage_that_its_weights_say(monkeypatch):
    done = []
    monkeypatch.setattr(pairs, "degrade", lambda name, image, rng: (done.append(name), image)[1])
    for i in range(40):
        done.clear()
        PAIRS.crop(i, 32, 3)
        assert done == [name for name, weight in zip(TASKS, shares(i, 3, 2), strict=True) if weight]  # haze comes first
    weight_NK = training().samples(PAIRS, 32, 3).rows(range(40))["weight"]
    np.testing.assert_array_equal(weight_NK, [shares(i, 3, 2) for i in range(40)])


def test_who_is_not_asked_changes_nothing():
    torch.manual_seed(0)
    base, made = adapters()
    several = TogetherTraining(base, Together(made), MEAN)
    alone = AdapterTraining(base, made[1], MEAN)
    rows = several.samples(PAIRS, 32, 0).rows(range(3))
    only = to_batch(rows | {"weight": np.array([[0, 1]] * 3, np.float32)})
    one, other = several.losses(only), alone.losses(to_batch({k: rows[k] for k in ("degraded", "clean")}))
    for name, value in other.items():
        torch.testing.assert_close(one[name], value)
    both = several.losses(to_batch(rows | {"weight": np.ones((3, 2), np.float32)}))
    assert abs(both["loss"] - one["loss"]) > 1e-4


@pytest.mark.parametrize("init", ["input", "noised_input"])
def test_every_parameter_has_a_gradient_and_memory_can_be_saved(init):
    gradients = []
    for recompute in (False, True):
        model = training(LossWeights(noise=0.1), recompute, init=init)
        model.losses(to_batch(model.samples(PAIRS, 32, 0).rows(range(4))))["loss"].backward()
        gradients.append([p.grad for p in model.adapter.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_training_moves_all_of_them_and_not_the_base(tmp_path):
    model = training(stirred=0.0)
    before = [{name: p.clone() for name, p in adapter.named_parameters()} for adapter in model.adapter.adapters]
    fingerprint = model.base.fingerprint()
    judge = HeldOut(model, model.samples(PAIRS, 32, 1), 3)
    settings = FitSettings(steps=3, learning_rate=2e-3, warmup_steps=1, precision="fp32", log_every_steps=1)
    train_adapter(model, PAIRS, settings, batch=4, crop_px=32, seed=0, folder=tmp_path, judge=judge)
    assert model.base.fingerprint() == fingerprint
    for old, adapter in zip(before, model.adapter.adapters, strict=True):
        assert any(not torch.equal(p, old[name]) for name, p in adapter.named_parameters())
    assert [model.adapter[k].config.task for k in range(len(model.adapter))] == list(TASKS)
