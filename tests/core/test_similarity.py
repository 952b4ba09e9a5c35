"""Decisions on made-up features whose right answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from fdi_lib.core.calibration import detection_limits
from fdi_lib.core.similarity import (
    Geometry,
    Thresholds,
    decide,
    inverse_root,
    matched_filter,
    shrunk_covariance,
    sparse_code,
    statistics,
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
    covariance = shrunk_covariance(clean)
    filters = np.stack([matched_filter(fdi, covariance, np.zeros((D, D))) for fdi in FDI])
    geometry = Geometry(("haze", "noise"), clean.mean(0), inverse_root(covariance), FDI, filters)
    energy = (geometry.residual(clean) ** 2).sum(1)
    single = np.array([np.linalg.norm(f @ geometry.whitening_DD) for f in FDI])
    scores = geometry.scores(clean)
    alone = [geometry.scores(_clean(400) + fdi)[:, k] for k, fdi in enumerate(FDI)]
    limit = detection_limits(scores, np.ones(len(clean)), alone, np.zeros(2), 0.008)
    unknown_energy = float(np.quantile(energy, 0.998))
    left = np.full(2, float(np.quantile(energy, 0.999)))
    thresholds = Thresholds(scores.mean(0), limit, unknown_energy, single, left, limit, 0.3, 1.0)
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
    touched = np.mean([d.verdict != "clean" for d in _decide(_clean(20_000), bank)])
    assert 0.001 < touched < 0.025


def test_a_direction_outside_the_bank_is_unknown_never_guessed(bank):
    decisions = _decide(_clean(50) + np.eye(D)[5] * 9, bank)
    assert {d.verdict for d in decisions} == {"unknown"}
    assert all(d.adapters == () for d in decisions)


def test_what_is_known_to_leave_as_much_unexplained_comes_before_what_explains_more(bank):
    geometry, thresholds = bank
    aside_D = np.linalg.svd(geometry.unit_KD)[2][-1] @ np.linalg.inv(geometry.whitening_DD)  # what no reference sees
    q = _clean(20) + FDI[0] + 1.5 * FDI[1] + 30 * aside_D
    assert {d.verdict for d in decide(q, geometry, thresholds, max_adapters=1, mode="progressive")} == {"unknown"}
    rough = replace(thresholds, left_K=np.array([1e6, thresholds.left_K[1]]))  # haze of this bank leaves anything
    assert {d.route for d in decide(q, geometry, rough, max_adapters=1, mode="progressive")} == {"haze"}
    q = _clean(20) + FDI[0] + 1.5 * FDI[1]  # where both fit, the larger one
    assert {d.route for d in decide(q, geometry, rough, max_adapters=1, mode="progressive")} == {"noise"}


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
    q = _clean(8) + FDI[0]
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


def test_matched_filter_is_in_standard_deviations_of_clean_content():
    clean = _clean(4000)
    own = matched_filter(FDI[0], np.cov(clean, rowvar=False), np.eye(D))
    assert (clean @ own).std() == pytest.approx(1, abs=0.01)


def test_a_filter_does_not_trust_directions_in_which_clean_content_hardly_varies():
    content, fdi = np.array([[1.0, 0.999], [0.999, 1.0]]), np.array([1.0, 0.5])
    own = matched_filter(fdi, content, np.zeros((2, 2)))
    unbound = np.linalg.solve(content, fdi)
    ridged = np.linalg.solve(content + 0.3 * np.eye(2), fdi)
    assert unbound[1] / unbound[0] < -0.99 and own[1] / own[0] == pytest.approx(ridged[1] / ridged[0])
    scale = np.array([10.0, 1.0])  # of the numbers: what one is measured in changes nothing
    other = matched_filter(fdi * scale, content * np.outer(scale, scale), np.zeros((2, 2)))
    np.testing.assert_allclose(other * scale, own)


def test_matched_filter_turns_away_from_what_varies_within_the_degradation():
    fdi, content = np.array([3.0, 3.0]), np.eye(2)
    calm = matched_filter(fdi, content, np.zeros((2, 2)))
    varied = matched_filter(fdi, content, np.diag([100.0, 0.0]))
    np.testing.assert_allclose(calm, [0.5**0.5, 0.5**0.5])
    assert varied[0] < 0.1 < 0.9 < varied[1]


def test_the_score_is_the_best_over_severities_and_the_same_without_any(bank):
    geometry, q = bank[0], _clean(40) + FDI[0]
    none = np.zeros((0, D))
    mild = geometry.filter_KD[:1] + 3 * np.eye(D)[5]
    severe = replace(geometry, severity_filters=(np.stack([mild[0], geometry.filter_KD[0] * 0.9]), none)).scores(q)
    plain, deviation = geometry.scores(q), q - geometry.mean_D
    np.testing.assert_array_equal(replace(geometry, severity_filters=(none, none)).scores(q), plain)
    np.testing.assert_array_equal(severe[:, 1], plain[:, 1])
    candidates = np.stack([plain[:, 0], deviation @ mild[0], 0.9 * plain[:, 0]])
    np.testing.assert_allclose(severe[:, 0], candidates.max(0), rtol=1e-9)
    assert len(set(candidates.argmax(0))) > 1


@pytest.mark.parametrize("mode", ["progressive", "composite"])
def test_single_names_may_have_a_strength_of_their_own(bank, mode):
    q = _clean(20) + FDI[0] + FDI[1]
    plain, own = (
        decide(q, *bank, max_adapters=3, mode=mode, strength=0.5, strengths=strengths)
        for strengths in (None, {"haze": 1.0})
    )
    for a, b in zip(plain, own, strict=True):
        before, after = dict(a.adapters), dict(b.adapters)
        assert after["haze"] == pytest.approx(2 * before["haze"], abs=0.011)
        assert after["noise"] == before["noise"]
