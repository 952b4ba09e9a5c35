"""Thresholds found on made-up held-out references keep the rate that was asked for."""

from dataclasses import replace

import numpy as np
import pytest

from fdi_lib.core.calibration import HeldOut, at_rate, calibrate, detection_limits, weighted_quantile
from fdi_lib.core.similarity import Geometry, decide, matched_filter

RNG = np.random.default_rng(0)
D = 12
FDI = np.stack([np.eye(D)[0] * 9, np.eye(D)[1] * 6])


def _geometry(fdi_KD: np.ndarray) -> Geometry:
    filters = np.stack([matched_filter(fdi, np.eye(D), np.zeros((D, D))) for fdi in fdi_KD])
    return Geometry(("haze", "noise"), np.zeros(D), np.eye(D), fdi_KD, filters)


def _held(fdi_KD: np.ndarray) -> HeldOut:
    present = np.array([[1, 0]] * 200 + [[0, 1]] * 200 + [[1, 1]] * 100, bool)
    damaged = RNG.normal(size=(500, D)) + present @ fdi_KD
    return HeldOut(RNG.normal(size=(4000, D)), np.ones(4000), damaged, present)


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return _geometry(FDI)


@pytest.fixture(scope="module")
def held() -> HeldOut:
    return _held(FDI)


def test_calibrated_thresholds_name_new_images_and_leave_clean_ones(geometry, held):
    thresholds = calibrate(geometry, held, 0.02)
    np.testing.assert_allclose(thresholds.single_K, [9, 6], rtol=0.15)
    fresh = RNG.normal(size=(20_000, D))
    touched = [d.verdict != "clean" for d in decide(fresh, geometry, thresholds, max_adapters=2, mode="composite")]
    assert np.mean(touched) < 0.04  # what stands out as far as these need not spend the rate
    for k, name in enumerate(geometry.names):
        decisions = decide(fresh[:200] + FDI[k], geometry, thresholds, max_adapters=2, mode="composite")
        assert np.mean([d.route == name for d in decisions]) > 0.95


def test_what_is_faint_spends_the_rate():
    faint = _geometry(FDI / 2.5)
    fresh, thresholds = RNG.normal(size=(20_000, D)), calibrate(faint, _held(FDI / 2.5), 0.02)
    touched = [d.verdict != "clean" for d in decide(fresh, faint, thresholds, max_adapters=2, mode="composite")]
    assert 0.01 < np.mean(touched) < 0.04


def test_another_rate_moves_the_limits_and_nothing_else(geometry, held):
    thresholds = calibrate(geometry, held, 0.02)
    strict = at_rate(thresholds, geometry, held, 0.001)
    assert (strict.limit_K >= thresholds.limit_K).all() and strict.unknown_energy > thresholds.unknown_energy
    np.testing.assert_array_equal(strict.single_K, thresholds.single_K)


def _above(scores: np.ndarray, limit: np.ndarray) -> float:
    return float((scores > limit).any(1).mean())


def test_limits_keep_the_rate_of_images_not_of_tests():
    scores, alone = RNG.normal(size=(20_000, 5)), [RNG.normal(3, 1, 2000) for _ in range(5)]
    for rate in (0.01, 0.05):
        limit = detection_limits(scores, np.ones(20_000), alone, np.full(5, -9.0), rate)
        assert _above(scores, limit) <= rate and _above(scores, limit) == pytest.approx(rate, rel=0.05)
        assert np.ptp(limit) < 0.5  # they are alike


def test_the_rate_is_spent_where_it_finds_most():
    scores, even = RNG.normal(size=(20_000, 2)), np.ones(20_000)
    near, far = RNG.normal(2.5, 1, 4000), RNG.normal(6, 1, 4000)
    limit = detection_limits(scores, even, [near, far], np.full(2, -9.0), 0.02)
    alike = np.quantile(scores.max(1), 0.98)
    assert _above(scores, limit) <= 0.02
    assert limit[0] < alike < limit[1]
    assert np.mean(near > limit[0]) + np.mean(far > limit[1]) > np.mean(near > alike) + np.mean(far > alike)


def test_images_that_exceed_several_limits_count_once():
    alike = RNG.normal(size=(20_000, 1)) + 0.2 * RNG.normal(size=(20_000, 8))
    alone = [RNG.normal(3, 1, 2000) for _ in range(8)]
    limit = detection_limits(alike, np.ones(20_000), alone, np.full(8, -9.0), 0.01)
    assert 0.008 < _above(alike, limit) <= 0.01


def test_what_stands_out_far_spends_no_false_positives():
    scores, even, near = RNG.normal(size=(20_000, 2)), np.ones(20_000), RNG.normal(3, 1, 2000)
    alike = detection_limits(scores, even, [near, near], np.full(2, -9.0), 0.01)
    apart = detection_limits(scores, even, [near, np.full(100, 40.0)], np.full(2, -9.0), 0.01)
    assert apart[1] == pytest.approx(20, abs=0.1)
    assert apart[0] < alike[0]


def test_limits_go_by_the_weights_and_stay_above_the_least():
    scores = np.array([[9.0], [5.0], [1.0], [0.0]])
    alone = [np.array([2.0, 4.7, 6.0, 8.0])]
    assert detection_limits(scores, np.array([0.0, 0.1, 1, 1]), alone, np.array([-1.0]), 0.01) == 5.0
    assert detection_limits(scores, np.array([0.0, 0.1, 1, 1]), alone, np.array([-1.0]), 0.1) < 5.0
    assert detection_limits(scores, np.array([0.0, 0.1, 1, 1]), alone, np.array([4.5]), 0.1) == 4.5


def test_weighted_quantile_counts_weights():
    assert weighted_quantile(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 8.0]), 0.15) == 2.0
    assert weighted_quantile(np.array([3.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]), 1.0) == 2.0


def test_few_references_don_t_make_new_images_of_their_kind_unknown(geometry):
    few = np.array([[1, 0]] * 12 + [[0, 1]] * 12, bool)
    unknown = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        references = HeldOut(rng.normal(size=(500, D)), np.ones(500), rng.normal(size=(24, D)) + few @ FDI, few)
        thresholds = calibrate(geometry, references, 0.02)
        fresh = rng.normal(size=(200, D)) + FDI[0]
        decisions = decide(fresh, geometry, thresholds, max_adapters=2, mode="composite")
        unknown.append(np.mean([d.verdict == "unknown" for d in decisions]))
    assert np.mean(unknown) < 0.03


def test_looks_at_the_same_picture_count_as_one(geometry, held):
    few = held.present_MK[:200, 0].nonzero()[0][:20]
    rows = np.concatenate([np.repeat(few, 4), np.flatnonzero(held.alone(1))])
    four_looks = HeldOut(held.clean_ND, held.weight_N, held.damaged_MD[rows], held.present_MK[rows])
    weighed = replace(four_looks, weight_M=np.where(np.arange(len(rows)) < 80, 0.25, 1.0))
    once = HeldOut(
        held.clean_ND, held.weight_N, *(x[np.r_[few, rows[80:]]] for x in (held.damaged_MD, held.present_MK))
    )
    left = [calibrate(geometry, given, 0.02).left_K[0] for given in (four_looks, weighed, once)]
    assert left[0] < left[1] == pytest.approx(left[2])
