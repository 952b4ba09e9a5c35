"""References of mixtures name what the sum of single differences would miss, and go along when a bank changes."""

from dataclasses import replace

import numpy as np
import pytest

from fdi_lib.core.calibration import HeldOut, calibrate
from fdi_lib.core.mixtures import Mixtures
from fdi_lib.core.similarity import Geometry, Thresholds, decide

D = 6
NAMES = ("haze", "noise", "rain")
FDI = 9 * np.eye(3, D)
TOGETHER = np.array([2.0, 8.0, 0, 4.0, 0, 0])  # noise hides most of the haze, and turns it elsewhere
MIXTURES = Mixtures(np.array([[True, True, False]]), TOGETHER[None], np.eye(D))


def _noisy(mean: np.ndarray, count: int, seed: int) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(size=(count, D))


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return Geometry(NAMES, np.zeros(D), np.eye(D), FDI, FDI / 9, mixtures=MIXTURES)


@pytest.fixture(scope="module")
def held() -> HeldOut:
    damaged = np.concatenate([*(_noisy(fdi, 200, k) for k, fdi in enumerate(FDI)), _noisy(TOGETHER, 50, 8)])
    present = np.repeat(np.concatenate([np.eye(3, dtype=bool), MIXTURES.present_PK]), (200, 200, 200, 50), axis=0)
    return HeldOut(_noisy(np.zeros(D), 1000, 9), np.ones(1000), damaged, present)


@pytest.fixture(scope="module")
def thresholds(geometry, held) -> Thresholds:
    return calibrate(geometry, held, 0.01)


def _routes(q_ND, geometry, thresholds, **settings) -> list[str]:
    given = {"max_adapters": 3, "mode": "progressive"} | settings
    return [d.route or d.verdict for d in decide(q_ND, geometry, thresholds, **given)]


def test_a_mixture_is_found_by_its_reference_and_not_without(geometry, thresholds) -> None:
    q_ND = _noisy(TOGETHER, 100, 20)
    assert _routes(q_ND, geometry, thresholds).count("noise>haze") > 90
    alone = replace(geometry, mixtures=None)
    assert _routes(q_ND, alone, thresholds).count("noise>haze") < 20
    assert _routes(q_ND, geometry, thresholds, max_adapters=1).count("noise") > 90


def test_single_degradations_hardly_get_another_one(geometry, thresholds) -> None:
    for k, name in enumerate(NAMES):
        assert _routes(_noisy(FDI[k], 200, 30 + k), geometry, thresholds).count(name) > 180


def test_what_has_no_reference_joins_by_its_amplitude_as_before(geometry, thresholds) -> None:
    q_ND = _noisy(FDI[1] + FDI[2], 50, 40)
    assert _routes(q_ND, geometry, thresholds).count("noise>rain") > 40


def test_a_hidden_partner_counts_for_something_in_a_composite(geometry, thresholds) -> None:
    decisions = decide(_noisy(TOGETHER, 50, 50), geometry, thresholds, max_adapters=3, mode="composite")
    weights = [dict(d.adapters)["haze"] for d in decisions if d.route == "haze+noise"]
    assert len(weights) > 35 and min(weights) >= thresholds.member


def test_the_advantage_is_a_difference_of_log_likelihoods() -> None:
    mixtures = replace(MIXTURES, spread_DD=np.diag([1.0, 2, 3, 4, 5, 6]))
    q_ND = _noisy(TOGETHER, 5, 60)

    def log_likelihood(mean_D: np.ndarray) -> np.ndarray:
        return -0.5 * ((q_ND - mean_D) ** 2 / np.diag(mixtures.spread_DD)).sum(1)

    better_NKK = mixtures.advantage(q_ND, *mixtures.discriminants(FDI))
    np.testing.assert_allclose(better_NKK[:, 1, 0], log_likelihood(TOGETHER) - log_likelihood(FDI[1]))
    np.testing.assert_allclose(better_NKK[:, 0, 1], log_likelihood(TOGETHER) - log_likelihood(FDI[0]))
    assert np.isneginf(better_NKK[:, 2]).all() and np.isneginf(better_NKK[:, :, 2]).all()


def test_references_follow_their_degradations_when_the_bank_changes() -> None:
    three = Mixtures(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], bool), np.arange(18.0).reshape(3, D), np.eye(D))
    kept = three.keep([2, 0], added=1)
    np.testing.assert_array_equal(kept.present_PK, [[True, True, False]])
    np.testing.assert_array_equal(kept.fdi_PD, three.fdi_PD[1:2])
    known_KK = np.isfinite(kept.advantage(np.zeros((1, D)), *kept.discriminants(FDI))[0])
    np.testing.assert_array_equal(known_KK, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert three.keep([1]).fdi_PD.shape == (0, D)


def test_what_is_stored_is_what_was_there() -> None:
    again = Mixtures.among(MIXTURES.arrays())
    assert again is not None and Mixtures.among({}) is None
    for key, value in vars(MIXTURES).items():
        np.testing.assert_array_equal(getattr(again, key), value)
