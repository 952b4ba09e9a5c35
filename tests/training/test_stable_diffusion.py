"""Adapters train on Stable Diffusion-shaped bases as on the compact one: the base stays what it was, bit for bit."""

# ruff: noqa: F811 - fixtures that lie with the tests of the models
import numpy as np
import pytest
import torch

from fdi_lib.models.adapter import AdapterConfig
from fdi_lib.models.stable_diffusion import load_base
from fdi_lib.training.adapter import AdapterTraining, LossWeights, fresh_adapter, train_adapter
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.pairs import SyntheticPairs
from fdi_lib.training.samples import to_batch
from tests.models.conftest import folders  # noqa: F401 - a fixture
from tests.tiny_checkpoints import KINDS

TILES = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
PAIRS = SyntheticPairs(TILES, "haze")


def training(folder, *, stirred=0.0, recompute=False, noise=0.0, **use):
    base = load_base(folder)
    config = AdapterConfig.for_base(base, "haze", (32, 768), **use)
    adapter = fresh_adapter(config, torch.randn(32, 768, generator=torch.Generator().manual_seed(1)), 0)
    if stirred:
        torch.manual_seed(1)
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(stirred * torch.randn_like(p))
    return AdapterTraining(base, adapter, LossWeights(noise=noise), recompute=recompute)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", [{}, {"init": "noised_input"}, {"modulator": "literal", "addition": "literal"}])
def test_steps_move_the_adapter_and_nothing_else(folders, tmp_path, kind, use):
    model = training(folders[kind], noise=0.1, **use)
    before = {name: p.clone() for name, p in model.adapter.named_parameters()}
    base = {name: t.clone() for name, t in model.base.state_dict().items()}
    fingerprint = model.base.fingerprint()
    settings = FitSettings(steps=2, learning_rate=1e-3, warmup_steps=1, precision="fp32", log_every_steps=1)
    adapter = train_adapter(model, PAIRS, settings, batch=2, crop_px=64, seed=0, folder=tmp_path)
    assert model.base.fingerprint() == fingerprint
    assert all(torch.equal(t, base[name]) for name, t in model.base.state_dict().items())
    moved = [name for name, p in adapter.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("modulate") for name in moved) and any(name.startswith("trunk") for name in moved)


@pytest.mark.parametrize("kind", ["sd21", "sdxl"])
def test_crops_that_return_are_encoded_once_and_change_no_step(folders, monkeypatch, kind):
    model, encoded = training(folders[kind], stirred=0.05, noise=0.1), []
    encode = model.base.vae.encode
    monkeypatch.setattr(model.base.vae, "encode", lambda x: (encoded.append(len(x)), encode(x))[1])
    samples = model.samples(PAIRS, 64, 0, crops=4)
    for step in range(6):
        batch = to_batch(samples.rows(range(2 * step, 2 * step + 2)))
        kept = model.losses(batch)["loss"]
        seen = sum(encoded)
        assert seen == min(4 * (step + 1), 8)  # degraded and clean
        again = model.losses({name: value for name, value in batch.items() if name != "crop"})["loss"]
        torch.testing.assert_close(kept, again, rtol=1e-6, atol=0)  # another layout in memory rounds otherwise
        del encoded[-2:]


@pytest.mark.parametrize("kind", ["sd21", "sdxl"])
@pytest.mark.parametrize("parts", ["full", "modulator", "decoupling"])
def test_every_parameter_has_a_gradient(folders, kind, parts):
    """Workers that share gradients wait for ever for one that never comes."""
    model = training(folders[kind], parts=parts)
    model.losses(to_batch(model.samples(PAIRS, 64, 0).rows([0])))["loss"].backward()
    assert not [name for name, p in model.adapter.named_parameters() if p.grad is None]


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_give_the_same_gradients(folders, kind):
    gradients = []
    for recompute in (False, True):
        model = training(folders[kind], stirred=0.02, recompute=recompute, init="noised_input", noise=0.5)
        model.losses(to_batch(model.samples(PAIRS, 64, 0).rows([0, 1])))["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.adapter.parameters()]))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
