"""A few steps of the real recipe: only the adapter moves, the loss falls, and memory can be traded for time."""

import json

import numpy as np
import pytest
import torch

from fdi_lib.models.adapter import AdapterConfig
from fdi_lib.models.base import Base
from fdi_lib.training.adapter import AdapterTraining, HeldOut, LossWeights, fresh_adapter, train_adapter
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.pairs import SyntheticPairs
from fdi_lib.training.samples import to_batch

MEAN = LossWeights()
TILES = np.random.default_rng(0).integers(0, 255, (4, 48, 48, 3)).astype(np.uint8)


def training(init="input", weights=MEAN, stirred=0.0, **how):
    torch.manual_seed(0)
    base = Base.compact()
    config = AdapterConfig("haze", tuple(base.channels), init=init)
    adapter = fresh_adapter(config, torch.randn(16, 128), 0)
    if stirred:  # a fresh adapter is the identity, and most of its gradients are zero
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(stirred * torch.randn_like(p))
    return AdapterTraining(base, adapter, weights, **how)


def test_training_moves_only_the_adapter_and_lowers_the_loss(tmp_path):
    model = training()
    before = model.base.fingerprint()
    pairs = SyntheticPairs(TILES, "haze")
    settings = FitSettings(steps=12, learning_rate=2e-3, warmup_steps=1, precision="fp32", log_every_steps=4)
    judge = HeldOut(model, model.samples(pairs, 32, 1), 3)
    adapter = train_adapter(model, pairs, settings, batch=2, crop_px=32, seed=0, folder=tmp_path, judge=judge)
    assert model.base.fingerprint() == before
    assert not any(p.requires_grad for p in adapter.parameters())
    assert adapter.add[0].weight.abs().sum() > 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert 3 < rows[-1]["validation_psnr"] < 60
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert list(tmp_path.glob("images/*.png")) and list(tmp_path.glob("tensorboard/events*"))


def test_a_base_that_changed_is_noticed():
    model = training()
    with torch.no_grad():
        model.base.unet.conv_in.weight += 1
    with pytest.raises(AssertionError, match="changed the frozen base"):
        model.finish()


@pytest.mark.parametrize("init", ["input", "noised_input"])
def test_recomputed_activations_give_the_same_gradients(init):
    gradients = []
    for recompute in (False, True):
        model = training(init, LossWeights(noise=0.5), stirred=0.02, recompute=recompute)
        samples = model.samples(SyntheticPairs(TILES, "haze"), 32, 0)
        model.losses(to_batch(samples.rows([0, 1])))["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.adapter.parameters()]))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_noise_prediction_is_the_error_in_the_noise():
    model = training("noised_input", LossWeights(noise=1.0), stirred=0.02)
    batch = to_batch(model.samples(SyntheticPairs(TILES, "haze"), 32, 0).rows([0, 1, 2]))
    assert batch["t"].max() < model.levels == 500
    found = model.losses(batch)
    assert found["loss"] == found["l1"] + found["l1_refined"] + found["noise"]
    abar = model.base.alphas[batch["t"]].view(-1, 1, 1, 1)
    clean = model.base.encode(batch["clean"])
    z = abar.sqrt() * clean + (1 - abar).sqrt() * batch["noise"]

    from fdi_lib.models.attach import attached

    with torch.no_grad(), attached(model.base, model.adapter.guidance(batch["degraded"])):
        x0 = model.base.predict_clean(z, batch["t"])
    predicted = (z - abar.sqrt() * x0) / (1 - abar).sqrt()
    torch.testing.assert_close(found["noise"], (predicted - batch["noise"]).square().mean(), rtol=1e-3, atol=0)


def test_scores_of_parts_add_up():
    model = training(stirred=0.02)
    samples = model.samples(SyntheticPairs(TILES, "haze"), 32, 1)
    whole = HeldOut(model, samples, 5).score()
    parts = [HeldOut(model, samples, 5, rank, 2).score() for rank in (0, 1)]
    assert whole[1] == 5 == sum(count for _, count in parts)
    assert whole[0] == pytest.approx(sum(total for total, _ in parts), rel=1e-6)
