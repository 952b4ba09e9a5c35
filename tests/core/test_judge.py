"""A judge finds its thresholds itself, once, or takes those that were found; another rate is another judge."""

import numpy as np
import pytest

from fdi_lib.core.calibration import HeldOut, at_rate, calibrate
from fdi_lib.core.judge import Judge
from fdi_lib.core.similarity import Geometry, decide, matched_filter

D = 12
FDI = np.stack([np.eye(D)[0] * 9, np.eye(D)[1] * 6])


@pytest.fixture(scope="module")
def judge() -> Judge:
    rng = np.random.default_rng(0)
    filters = np.stack([matched_filter(fdi, np.eye(D), np.zeros((D, D))) for fdi in FDI])
    present = np.array([[1, 0]] * 100 + [[0, 1]] * 100 + [[1, 1]] * 50, bool)
    held = HeldOut(rng.normal(size=(800, D)), np.ones(800), rng.normal(size=(250, D)) + present @ FDI, present)
    return Judge(Geometry(("haze", "noise"), np.zeros(D), np.eye(D), FDI, filters), held, 0.02)


def test_it_decides_by_what_calibration_finds(judge):
    expected = calibrate(judge.geometry, judge.held_out, 0.02)
    np.testing.assert_array_equal(judge.thresholds.limit_K, expected.limit_K)
    q = np.concatenate([np.full((3, D), 0.1), np.repeat(FDI, 2, axis=0)])
    how = {"max_adapters": 2, "mode": "composite", "strength": 0.5, "strengths": {"haze": 0.7}}
    assert judge.decide(q, **how) == decide(q, judge.geometry, expected, **how)
    assert [d.route for d in judge.decide(q, **how)] == ["", "", "", "haze", "haze", "noise", "noise"]


def test_what_was_found_before_is_taken(judge):
    thresholds = judge.at_rate(0.3).thresholds
    assert Judge(judge.geometry, judge.held_out, 0.02, thresholds).thresholds is thresholds


def test_another_rate_moves_the_limits(judge):
    assert judge.at_rate(0.02).found is judge.thresholds
    strict = judge.at_rate(0.001)
    expected = at_rate(judge.thresholds, judge.geometry, judge.held_out, 0.001)
    np.testing.assert_array_equal(strict.thresholds.limit_K, expected.limit_K)
    assert strict.rate == 0.001 and strict.thresholds.unknown_energy > judge.thresholds.unknown_energy
