"""A few steps of the real recipe: only the adapter moves, and the loss falls."""

import json

import numpy as np
import torch

from fdi_lib.models.adapter import AdapterConfig
from fdi_lib.models.base import Base
from fdi_lib.training.adapter import synthetic_pairs, train_adapter
from fdi_lib.training.loop import FitSettings


def test_training_moves_only_the_adapter_and_lowers_the_loss(tmp_path):
    torch.manual_seed(0)
    base = Base.compact().eval().requires_grad_(False)
    before = base.fingerprint()
    tiles = np.random.default_rng(0).integers(0, 255, (4, 48, 48, 3)).astype(np.uint8)
    settings = FitSettings(steps=12, learning_rate=2e-3, warmup_steps=1, precision="fp32", log_every_steps=4)
    adapter = train_adapter(base, AdapterConfig("haze", tuple(base.channels)), torch.randn(16, 128),
                            synthetic_pairs(tiles, "haze", 32, 0), settings, 2, 0, tmp_path)  # fmt: skip
    assert base.fingerprint() == before
    assert not any(p.requires_grad for p in adapter.parameters())
    assert adapter.add[0].weight.abs().sum() > 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_pairs_depend_on_seed_and_index_only():
    tiles = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)
    pair_of, again, other = (synthetic_pairs(tiles, "noise", 48, seed) for seed in (0, 0, 1))
    for a, b in zip(pair_of(5), again(5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(pair_of(5)[0], other(5)[0])
    assert not np.array_equal(pair_of(5)[0], pair_of(6)[0])
    degraded, clean = pair_of(0)
    assert degraded.shape == clean.shape == (48, 48, 3) and degraded.dtype == np.float32
