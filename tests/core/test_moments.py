"""Merged moments are those of the whole, in any order and grouping; a sample depends on names alone."""

import numpy as np
import pytest

from fdi_lib.core.moments import Moments, PairMoments, Sample, merged


def rows(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1000 + rng.normal(size=(count, width)) @ rng.normal(size=(width, width))


def test_moments_equal_two_passes_whatever_the_parts():
    x = rows(500)
    parts = [Moments.of(part) for part in np.split(x, [1, 1, 40, 300])]  # one of them is empty
    left, right = parts[0], parts[-1]
    for part in parts[1:]:
        left = left.merge(part)
    for part in parts[-2::-1]:
        right = part.merge(right)
    for found in (left, right, Moments.none(6).merge(Moments.of(x))):
        assert found.count == 500
        np.testing.assert_allclose(found.mean_D, x.mean(0), rtol=1e-13)
        np.testing.assert_allclose(found.covariance_DD, np.cov(x, rowvar=False, bias=True), rtol=1e-8)
        assert found.mean_square == pytest.approx((x**2).sum(1).mean())


def test_a_mean_far_from_zero_costs_no_digits():
    """The textbook formula, mean of squares less square of mean, would return noise here."""
    x = 1e6 + np.random.default_rng(0).normal(size=(4000, 1)).astype(np.float64)
    found = Moments.of(x[:1000]).merge(Moments.of(x[1000:]))
    assert found.covariance_DD[0, 0] == pytest.approx(x.var(), rel=1e-9)


def test_float32_rows_are_summed_in_float64():
    x = np.full((100_000, 1), 0.1, np.float32)
    assert Moments.of(x).mean_D[0] == pytest.approx(float(x[0, 0]), rel=1e-14)


def test_a_sample_knows_no_order():
    names = [f"n{i}" for i in range(200)]
    x = rows(200).astype(np.float32)
    whole = Sample.of(names, (x,), 16, seed=1)
    halves = [Sample.of(names[a:b], (x[a:b],), 16, seed=1) for a, b in ((120, 200), (0, 5), (5, 120))]
    parts = halves[0].merge(halves[1]).merge(halves[2])
    np.testing.assert_array_equal(parts.row_ND, whole.row_ND)
    assert len(whole.row_ND) == 16
    assert not np.array_equal(Sample.of(names, (x,), 16, seed=2).row_ND, whole.row_ND)


def pair_moments(start: int, stop: int) -> PairMoments:
    clean, degraded = rows(90), rows(90, seed=1)
    tokens = (degraded - clean)[start:stop].sum(0).reshape(2, 3)
    names = [f"p{i}" for i in range(start, stop)]
    return PairMoments.of(names, clean[start:stop], degraded[start:stop], tokens, 8, seed=0)


def test_pairs_are_reduced_to_what_a_bank_needs():
    parts = [pair_moments(0, 30), pair_moments(30, 31), pair_moments(31, 90)]
    found = merged(PairMoments.from_bytes(part.to_bytes()) for part in parts)
    assert found is not None
    clean, degraded = rows(90), rows(90, seed=1)
    difference = degraded - clean
    assert found.count == 90
    np.testing.assert_allclose(found.fdi_tokens_TD.ravel(), difference.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.difference.covariance_DD, np.cov(difference, rowvar=False, bias=True), rtol=1e-8)
    np.testing.assert_allclose(found.clean.mean_D, clean.mean(0), rtol=1e-12)
    expected = (difference.mean(0) ** 2).sum() / (difference**2).sum(1).mean()
    assert found.spread == pytest.approx(expected)
    assert found.sample.row_ND.shape == (8, 12)
    np.testing.assert_array_equal(found.sample.row_ND, pair_moments(0, 90).sample.row_ND)


def test_no_part_is_no_moments():
    assert merged([]) is None
