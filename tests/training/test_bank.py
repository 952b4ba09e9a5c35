"""A bank built with an encoder whose features are plain image statistics tells noise from haze from clean."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.ndimage import gaussian_filter

from fdi_lib.core.similarity import decide
from fdi_lib.core.views import ViewSpec
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.training.bank import build_bank, degraded, features


class _Statistics:
    """Tokens from brightness, contrast and fine detail of either view: what noise and haze change."""

    view_spec = ViewSpec(32, 1)

    def tokens(self, views_BVHWC: np.ndarray) -> torch.Tensor:
        x = views_BVHWC.astype(np.float32) / 255
        detail = np.abs(np.diff(x, axis=3)).mean((2, 3, 4))
        numbers = np.stack([x.mean((2, 3, 4)), x.std((2, 3, 4)), detail], axis=2)  # B, V, 3
        return torch.from_numpy(np.repeat(numbers[:, :, None], 2, axis=2).reshape(len(x), 4, 3))

    def pooled(self, tokens_BTD: torch.Tensor) -> torch.Tensor:
        return tokens_BTD.unflatten(1, (2, 2)).mean(2).flatten(1)


def _pictures(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = [gaussian_filter(rng.normal(size=(64, 64, 3)), (6, 6, 0)) for _ in range(count)]
    return [np.clip(128 + 500 * s * rng.uniform(0.7, 1.3), 0, 255).astype(np.uint8) for s in smooth]


@pytest.fixture(scope="module")
def bank() -> ReferenceBank:
    content = _pictures(80, 0)
    return build_bank(_Statistics(), "0" * 64, ("haze", "noise"), content, content[:40], _pictures(60, 1),
                      np.ones(60), clean_false_positive_rate=0.02, seed=0)  # fmt: skip


def _routes(bank: ReferenceBank, images: list[np.ndarray]) -> list[str]:
    q = features(_Statistics(), images)[1]
    decisions = decide(q, bank.geometry, bank.thresholds, max_adapters=2, mode="progressive")
    return [d.route or d.verdict for d in decisions]


def test_new_pictures_get_the_right_answer(bank):
    clean = _pictures(40, 2)
    assert _routes(bank, clean).count("clean") >= 37
    for name in ("haze", "noise"):
        routes = _routes(bank, [degraded((name,), image, [9, i]) for i, image in enumerate(clean)])
        assert routes.count(name) >= 34, name


def test_what_is_stored_is_what_was_built(bank, tmp_path):
    bank.save_pretrained(tmp_path)
    again = ReferenceBank.from_pretrained(tmp_path, "0" * 64)
    images = _pictures(20, 3)
    images = [*images, *(degraded(("noise",), image, [4, i]) for i, image in enumerate(images))]
    assert _routes(again, images) == _routes(bank, images)
    np.testing.assert_array_equal(again.tokens_of("noise"), bank.tokens_of("noise"))
    assert again.names == ("haze", "noise")


def test_a_stricter_rate_moves_the_limits_outwards(bank):
    strict, lax = bank.at_rate(0.01), bank.at_rate(0.2)
    assert (strict.limit_K >= lax.limit_K).all()
    assert strict.unknown_energy > lax.unknown_energy


def test_fdi_is_the_mean_difference_of_pairs(bank):
    content = _pictures(80, 0)[:40]
    pairs = [degraded(("noise",), image, [0, 1, i]) for i, image in enumerate(content)]
    difference = features(_Statistics(), pairs)[1] - features(_Statistics(), content)[1]
    np.testing.assert_allclose(bank.geometry.fdi_KD[1], difference.mean(0), rtol=1e-6)


def test_an_adapters_fdi_file_holds_the_banks_entry(bank, tmp_path):
    bank.save_fdi("noise", tmp_path)
    with safe_open(tmp_path / "fdi.safetensors", "numpy") as file:
        assert file.metadata() == {"encoder_sha256": "0" * 64, "name": "noise"}
        assert set(file.keys()) == {"tokens", "mean", "filter", "clean_mean", "spread", "n", "held_out"}
        np.testing.assert_array_equal(file.get_tensor("tokens"), bank.tokens_of("noise"))
        np.testing.assert_allclose(file.get_tensor("mean"), bank.geometry.fdi_KD[1], rtol=1e-6)
        assert file.get_tensor("n") == 40
