"""Every tuned method restores what it is for; tuning never keeps one that harms."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data

from fdi_lib.core.classical import CANDIDATES, CHOSEN, NOTHING, Method, best_known, classical_method, tune
from fdi_lib.core.degrade import degrade
from fdi_lib.core.filters import noise_sigma
from fdi_lib.core.metrics import psnr


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return (skimage.data.astronaut()[60:188, 150:278] / 255).astype(np.float32)


# What gains next to nothing on the calibration pictures need not gain here.
_FAINT = {"motion_blur", "low_resolution", "raindrop", "stain"}


@pytest.mark.parametrize("name", sorted(CHOSEN))
def test_chosen_method_gains_on_photographs(name: str, photograph: np.ndarray) -> None:
    cat = (skimage.data.chelsea()[80:208, 120:248] / 255).astype(np.float32)
    gains = []
    for clean in (photograph, cat):
        degraded = degrade(name, clean, np.random.default_rng(1), 0.6)
        restored = CHOSEN[name](degraded)
        assert restored.shape == degraded.shape
        assert restored.dtype == np.float32
        assert restored.min() >= 0 and restored.max() <= 1
        gains.append(psnr(restored, clean) - psnr(degraded, clean))
    assert np.mean(gains) > (-0.6 if name in _FAINT else 0.3)


def test_unlisted_degradation_gets_do_nothing(photograph: np.ndarray) -> None:
    method = classical_method("a user's own")
    assert method is NOTHING
    assert np.array_equal(method(photograph), photograph)


def test_noise_estimate(photograph: np.ndarray) -> None:
    noisy = photograph * 0 + 0.5 + np.random.default_rng(0).normal(0, 0.1, photograph.shape).astype(np.float32)
    assert noise_sigma(noisy) == pytest.approx(0.1, rel=0.05)


def test_tune_takes_the_best_of_the_grid(photograph: np.ndarray) -> None:
    darker = photograph * 0.4
    method, gain = tune("low_light", [(darker, photograph)])
    assert gain > 5
    assert method.parameters["mean"] in {m for _, _, grid in CANDIDATES["low_light"] for m in grid["mean"]}


def test_tune_replaces_what_harms_by_nothing(photograph: np.ndarray) -> None:
    method, gain = tune("low_light", [(photograph, photograph)])
    assert method is NOTHING
    assert gain == 0.0


def test_scratch_mask_over_texture_leaves_the_image_alone() -> None:
    texture = (np.indices((64, 64)).sum(axis=0) % 4 < 1).astype(np.float32)[..., None].repeat(3, axis=2)
    assert np.array_equal(CHOSEN["scratch"](texture), texture)


def test_methods_are_values() -> None:
    assert Method("a", NOTHING.function) == Method("a", NOTHING.function)


def test_a_kind_that_has_no_method_of_its_own_gets_the_best_of_the_others(photograph: np.ndarray) -> None:
    assert best_known([(photograph * 0.2, photograph)]) is CHOSEN["low_light"]
    assert best_known([(photograph, photograph)]) is NOTHING
