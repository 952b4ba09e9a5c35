"""A network names what the sum of single differences would miss, and goes along when a bank changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fdi_lib.core.calibration import HeldOut, calibrate
from fdi_lib.core.namer import Namer
from fdi_lib.core.similarity import Geometry, Thresholds, decide, statistics

D = 6
NAMES = ("haze", "noise", "rain")
FDI = 9 * np.eye(3, D)
TOGETHER = np.array([2.0, 8.0, 0, 4.0, 0, 0])  # noise hides most of the haze, and turns it elsewhere
BOTH = np.array([True, True, False])


def _by_hand() -> Namer:
    """Haze shows as itself, or in what noise turns it to; noise as itself. GELU is close to identity far above 0."""
    hidden = np.eye(D) * 10
    last = np.zeros((D, 3))
    last[0, 0], last[3, 0], last[1, 1] = 0.2, 0.3, 0.2
    return Namer(BOTH, (hidden, last), (np.zeros(D), np.array([-7.0, -9.0, 50.0])))


def _noisy(mean: np.ndarray, count: int, seed: int) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(size=(count, D))


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return Geometry(NAMES, np.zeros(D), np.eye(D), FDI, FDI / 9, namer=_by_hand())


@pytest.fixture(scope="module")
def held() -> HeldOut:
    damaged = np.concatenate([*(_noisy(fdi, 200, k) for k, fdi in enumerate(FDI)), _noisy(TOGETHER, 50, 8)])
    present = np.repeat(np.concatenate([np.eye(3, dtype=bool), BOTH[None]]), (200, 200, 200, 50), axis=0)
    return HeldOut(_noisy(np.zeros(D), 1000, 9), np.ones(1000), damaged, present)


@pytest.fixture(scope="module")
def thresholds(geometry, held) -> Thresholds:
    return calibrate(geometry, held, 0.01)


def _routes(q_ND, geometry, thresholds, **settings) -> list[str]:
    given = {"max_adapters": 3, "mode": "progressive"} | settings
    return [d.route or d.verdict for d in decide(q_ND, geometry, thresholds, **given)]


def test_a_mixture_is_found_by_the_network_and_not_without(geometry, thresholds) -> None:
    q_ND = _noisy(TOGETHER, 100, 20)
    assert 75 < _routes(q_ND, geometry, thresholds).count("noise>haze") <= 95  # a tenth shows too little of haze
    alone = replace(geometry, namer=None)
    assert _routes(q_ND, alone, thresholds).count("noise>haze") < 20
    assert _routes(q_ND, geometry, thresholds, max_adapters=1).count("noise") > 90


def test_single_degradations_hardly_get_another_one(geometry, thresholds) -> None:
    for k, name in enumerate(NAMES):
        assert _routes(_noisy(FDI[k], 200, 30 + k), geometry, thresholds).count(name) > 180


def test_what_it_cannot_name_joins_by_its_amplitude(geometry, thresholds) -> None:
    q_ND = _noisy(FDI[1] + FDI[2], 50, 40)
    assert _routes(q_ND, geometry, thresholds).count("noise>rain") > 40


def test_between_two_that_it_knows_amplitudes_have_no_say(geometry, thresholds) -> None:
    q_ND = _noisy(FDI[0] + FDI[1], 50, 41)
    denies = replace(geometry.namer, biases=(np.zeros(D), np.array([-90.0, -90.0, 0.0])))
    assert set(_routes(q_ND, replace(geometry, namer=denies), thresholds)) <= {"haze", "noise"}
    assert _routes(q_ND, replace(geometry, namer=None), thresholds).count("noise>haze") > 40


def test_it_has_no_say_where_it_does_not_know_the_first_one(geometry, thresholds) -> None:
    claims = replace(geometry.namer, biases=(np.zeros(D), np.array([90.0, 90.0, 0.0])))
    assert _routes(_noisy(FDI[2], 50, 42), replace(geometry, namer=claims), thresholds).count("rain") > 45


def test_a_hidden_partner_counts_for_half_at_least_in_a_composite(geometry, thresholds) -> None:
    settings = {"max_adapters": 3, "mode": "composite"}
    weights = [
        dict(d.adapters)["haze"] for d in decide(_noisy(TOGETHER, 50, 50), geometry, thresholds, **settings)
        if d.route == "haze+noise"
    ]  # fmt: skip
    assert len(weights) > 35 and min(weights) == 0.5
    open_ = [
        d for d in decide(_noisy(FDI[0] + FDI[1], 50, 51), geometry, thresholds, **settings) if len(d.adapters) > 1
    ]
    assert len(open_) > 25 and min(w for d in open_ for _, w in d.adapters) > 0.5


def test_the_margin_is_what_single_degradations_hardly_reach_but_even_odds_at_least(geometry, held) -> None:
    easy = replace(geometry.namer, biases=(np.zeros(D), np.array([-4.0, -4.0, 0.0])))
    some = replace(geometry, namer=easy)
    found = calibrate(some, held, 0.01)
    seen = statistics(held.damaged_MD, some, found)
    odds_MK = np.where(seen["score"] < found.shown_K, -np.inf, seen["odds"])
    other = np.concatenate([odds_MK[held.alone(0), 1], odds_MK[held.alone(1), 0]])
    assert (other > found.margin).mean() == pytest.approx(0.02, abs=0.003) and found.margin > 0
    assert calibrate(geometry, held, 0.01).margin == 0  # it is hardly ever wrong
    assert calibrate(replace(geometry, namer=None), held, 0.01).margin == 0


def test_the_filters_must_see_something_of_what_is_named(geometry, held, thresholds) -> None:
    mixed_M = held.present_MK.sum(1) == 2
    score_MK = geometry.scores(held.damaged_MD)[mixed_M]
    np.testing.assert_allclose(thresholds.shown_K[:2], np.quantile(score_MK[:, :2], 0.1, axis=0))
    hidden = TOGETHER * [0, 1, 1, 1, 1, 1]  # what noise makes of haze, and nothing of haze itself
    assert "noise>haze" not in _routes(hidden[None], geometry, thresholds)
    assert _routes(hidden[None], geometry, replace(thresholds, shown_K=-np.inf)) == ["noise>haze"]


def test_its_layers_are_those_of_torch() -> None:
    rng = np.random.default_rng(0)
    namer = Namer(np.ones(3, bool), (rng.normal(size=(D, 5)), rng.normal(size=(5, 3))), (np.ones(5), np.arange(3.0)))
    x = torch.from_numpy(_noisy(np.zeros(D), 7, 1))
    (first, last), (bias, end) = ([torch.from_numpy(a) for a in part] for part in (namer.weights, namer.biases))
    expected = torch.nn.functional.gelu(x @ first + bias) @ last + end
    np.testing.assert_allclose(namer.log_odds(x.numpy()), expected.numpy(), rtol=1e-12, atol=1e-12)


def test_it_goes_along_when_a_bank_changes() -> None:
    r_ND = _noisy(TOGETHER, 5, 60)
    odds_NK = _by_hand().log_odds(r_ND)
    assert np.isneginf(odds_NK[:, 2]).all() and np.isfinite(odds_NK[:, :2]).all()
    changed = _by_hand().keep([1, 0], added=1)
    assert changed is not None and changed.known_K.tolist() == [True, True, False]
    np.testing.assert_array_equal(changed.log_odds(r_ND)[:, :2], odds_NK[:, [1, 0]])
    assert np.isneginf(changed.log_odds(r_ND)[:, 2]).all()
    assert _by_hand().keep([2, 0], added=1) is None  # nothing is second to one


def test_it_is_stored_in_half_precision() -> None:
    namer = _by_hand()
    arrays = namer.arrays()
    assert {a.dtype.name for a in arrays.values()} == {"float16", "uint8"}
    again = Namer.among(arrays)
    assert again is not None and again.fits(3, D) and Namer.among({}) is None
    r_ND = _noisy(TOGETHER, 5, 61)
    np.testing.assert_allclose(again.log_odds(r_ND), namer.log_odds(r_ND), atol=0.1)
    assert again.arrays().keys() == arrays.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("namer.known", np.ones(1, np.uint8)),
        ("namer.0.weight", np.ones((D - 1, D), np.float16)),
        ("namer.1.weight", np.ones((D, 2), np.float16)),
        ("namer.1.bias", np.full(3, np.inf, np.float16)),
        ("namer.1.bias", None),
    ],
)
def test_one_that_does_not_fit_is_known(key, value) -> None:
    arrays = _by_hand().arrays() | {key: value}
    found = Namer.among({k: v for k, v in arrays.items() if v is not None})
    assert found is not None and not found.fits(3, D)
    assert not _by_hand().fits(4, D) and not _by_hand().fits(3, D + 1)
