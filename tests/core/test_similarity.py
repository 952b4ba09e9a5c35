"""Decisions on made-up features whose right answer is known."""

import numpy as np
import pytest

from fdi_lib.core.similarity import (
    CleanReferences,
    Geometry,
    Thresholds,
    decide,
    detection_limits,
    inverse_root,
    shrunk_covariance,
    sparse_code,
    statistics,
    weighted_quantile,
)

RNG = np.random.default_rng(0)
D = 12
CONTENT = RNG.normal(size=(D, D))
FDI = np.stack([np.eye(D)[0] * 9, np.eye(D)[1] * 9])


def _clean(n: int) -> np.ndarray:
    return RNG.normal(size=(n, D)) @ CONTENT * 0.2


@pytest.fixture(scope="module")
def bank() -> tuple[Geometry, Thresholds]:
    clean = _clean(4000)
    geometry = Geometry(("haze", "noise"), clean.mean(0), inverse_root(shrunk_covariance(clean)), FDI)
    r = geometry.residual(clean)
    energy = (r**2).sum(1)
    single = np.array([np.linalg.norm(f @ geometry.whitening_DD) for f in FDI])
    references = CleanReferences(r @ geometry.unit_KD.T, energy, np.ones(len(r)), np.zeros(2))
    limit, unknown_energy = detection_limits(references, 0.01)
    left = np.full(2, float(np.quantile(energy, 0.999)))
    thresholds = Thresholds(references.score_NK.mean(0), limit, unknown_energy, single, left, 0.3, 1.0)
    return geometry, thresholds


def _decide(q: np.ndarray, bank: tuple[Geometry, Thresholds], mode: str = "progressive") -> list:
    return decide(q, *bank, max_adapters=3, mode=mode)


def test_single_degradations_are_named(bank):
    for k, name in enumerate(bank[0].names):
        decisions = _decide(_clean(50) + FDI[k], bank)
        assert all(d.verdict == "single" and d.route == name for d in decisions)
        assert all(d.scores[name] == max(d.scores.values()) for d in decisions)


def test_mixture_is_named_in_order_of_repair_and_sorted_for_composite(bank):
    q = _clean(50) + FDI[0] + FDI[1]
    assert {d.route for d in _decide(q, bank)} == {"noise>haze"}
    composite = _decide(q, bank, "composite")
    assert {d.route for d in composite} == {"haze+noise"}
    assert all(0.7 < weight <= 1.25 for d in composite for _, weight in d.adapters)


def test_clean_images_pass_at_the_stated_rate(bank):
    touched = np.mean([d.verdict != "clean" for d in _decide(_clean(2000), bank)])
    assert 0.001 < touched < 0.025


def test_a_direction_outside_the_bank_is_unknown_never_guessed(bank):
    decisions = _decide(_clean(50) + np.eye(D)[5] * 9, bank)
    assert {d.verdict for d in decisions} == {"unknown"}
    assert all(d.adapters == () for d in decisions)


def test_code_is_non_negative_and_the_penalty_makes_it_sparser(bank):
    r = bank[0].residual(_clean(200) + FDI[0])
    code, sparse = sparse_code(r, bank[0].unit_KD, 0.0), sparse_code(r, bank[0].unit_KD, 2.0)
    assert (code >= 0).all()
    assert (sparse == 0).sum() > (code == 0).sum()


def test_code_without_penalty_is_least_squares_where_that_is_positive(bank):
    unit = bank[0].unit_KD
    r = np.array([[3.0, 2.0]]) @ unit
    np.testing.assert_allclose(sparse_code(r, unit, 0.0), [[3.0, 2.0]], rtol=1e-4)


def test_statistics_do_not_depend_on_batch_mates(bank):
    q = bank[0].residual(_clean(8) + FDI[0])
    together = statistics(q, *bank)["amplitude"]
    alone = np.concatenate([statistics(q[i : i + 1], *bank)["amplitude"] for i in range(8)])
    np.testing.assert_allclose(together, alone, rtol=1e-9)


def test_inverse_root_whitens():
    covariance = CONTENT @ CONTENT.T + np.eye(D)
    root = inverse_root(covariance)
    np.testing.assert_allclose(root @ covariance @ root, np.eye(D), atol=1e-9)


def test_shrinkage_fades_with_more_samples():
    few, many = shrunk_covariance(_clean(15)), shrunk_covariance(_clean(50_000))
    truth = 0.04 * CONTENT.T @ CONTENT
    assert np.abs(many - truth).max() < np.abs(few - truth).max()
    assert np.linalg.eigvalsh(few).min() > 0


def test_limits_keep_the_rate_of_images_not_of_tests():
    scores = RNG.normal(size=(20_000, 5))
    clean = CleanReferences(scores, np.zeros(20_000), np.ones(20_000), np.zeros(5))
    for rate in (0.01, 0.05):
        limit, _ = detection_limits(clean, rate)
        assert (scores > limit).any(1).mean() == pytest.approx(0.8 * rate, rel=0.05)


def test_what_stands_out_far_spends_no_false_positives():
    scores = RNG.normal(size=(20_000, 2))
    alike, _ = detection_limits(CleanReferences(scores, np.zeros(20_000), np.ones(20_000), np.array([0.0, 0.0])), 0.01)
    apart, _ = detection_limits(CleanReferences(scores, np.zeros(20_000), np.ones(20_000), np.array([0.0, 40.0])), 0.01)
    assert apart[1] == pytest.approx(20, abs=0.1)
    assert apart[0] < alike[0]


def test_weighted_quantile_counts_weights():
    assert weighted_quantile(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 8.0]), 0.15) == 2.0
    assert weighted_quantile(np.array([3.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]), 1.0) == 2.0
