"""Calibration of the classification on held-out references: features in, thresholds out. Pure arrays.

Held-out references are images whose features neither the encoder nor the bank's means have seen. Suffixes: N clean and
M damaged images, K degradations, D feature numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from fdi_lib.core.similarity import Geometry, Thresholds, decide, statistics

_L1 = 1.0  # sparsity of the code, in whitened amplitude (a clean image's score has standard deviation 1)
_OF_SCORES = 0.8  # share of the clean false-positive rate that the scores may use; the energy has the rest
_ONE_TOO_MANY = 0.02  # of images with one degradation may seem to have another one, too (docs/decisions/0020)
_UNSEEN = 0.1  # of mixtures in which a degradation's own score is lower, it isn't named
_PORTIONS, _HALVINGS = 500, 12  # of what degradations share; of the search for how much that is
_MANY = 100  # values that hold a 1 % tail
_MEMBER_CHOICES = np.linspace(0.1, 0.9, 17)


@dataclass(frozen=True)
class HeldOut:
    """Features of held-out references.

    Args:
        clean_ND: of clean images.
        weight_N: what each clean image counts: tiles of one picture are no independent images.
        damaged_MD: of damaged images.
        present_MK: bool, the degradations that each of them has.
        weight_M: what each damaged image counts, as several looks at one picture do; None: 1.
    """

    clean_ND: np.ndarray
    weight_N: np.ndarray
    damaged_MD: np.ndarray
    present_MK: np.ndarray
    weight_M: np.ndarray | None = None

    def alone(self, k: int) -> np.ndarray:
        """Bool M: damaged by degradation k and no other."""
        return np.asarray(self.present_MK[:, k] & (self.present_MK.sum(1) == 1))


def calibrate(geometry: Geometry, held: HeldOut, rate: float) -> Thresholds:
    """Thresholds at a clean false-positive rate.

    Args:
        geometry: the bank's coordinates.
        held: references; each degradation must be there alone at least once.
        rate: share of clean images that may be touched, in (0, 0.5).
    """
    start = _limits(geometry, held, rate)
    found = statistics(held.damaged_MD, geometry, start)
    kinds = range(len(geometry.names))
    single_K = np.array([max(np.median(found["amplitude"][held.alone(k), k]), 1e-3) for k in kinds])
    left_M = found["residual"] * found["energy"]
    weight_M = np.ones(len(left_M)) if held.weight_M is None else held.weight_M
    left_K = np.array([_tail(left_M[has_M], weight_M[has_M]) for has_M in held.present_MK.T])
    least_K = np.maximum(start.least_K, [_without(found["amplitude"], held, k) for k in kinds])
    shown_K = np.array([_shown(found["score"][:, k], held, geometry.nameable_K, k) for k in kinds])
    margin = _margin(np.where(found["score"] < shown_K, -np.inf, found["odds"]), held, geometry.nameable_K)
    start = replace(start, single_K=single_K, left_K=left_K, least_K=least_K, margin=margin, shown_K=shown_K)
    if geometry.nameable_K.all():  # nothing joins by its amplitude
        return start
    return replace(start, member=max(_MEMBER_CHOICES, key=lambda m: _exact(geometry, held, replace(start, member=m))))


def _shown(score_M: np.ndarray, held: HeldOut, nameable_K: np.ndarray, k: int) -> float:
    """Score of k that mixtures with it hardly ever lie below: the filters must see something of what is named, too.

    An adapter that isn't needed costs more than one that is missing, most of all where it changes all tones.
    """
    mixed_M = held.present_MK[:, k] & (held.present_MK.sum(1) > 1) & ~(held.present_MK & ~nameable_K).any(1)
    return float(np.quantile(score_M[mixed_M], _UNSEEN)) if mixed_M.any() else 0.0


def _margin(odds_MK: np.ndarray, held: HeldOut, nameable_K: np.ndarray) -> float:
    """Log odds of another degradation that images with one alone hardly ever exceed; never below even odds.

    Args:
        odds_MK: of the held-out damaged images; minus infinity for what isn't named.
        held: the references.
        nameable_K: bool, what can be named.
    """
    first_M = (held.present_MK & nameable_K).any(1) & (held.present_MK.sum(1) == 1)
    most_M = np.where(held.present_MK, 0.0, odds_MK)[first_M].max(1, initial=0.0)
    return float(np.quantile(most_M, 1 - _ONE_TOO_MANY)) if first_M.any() else 0.0


def _without(amplitude_MK: np.ndarray, held: HeldOut, k: int) -> float:
    """Amplitude of k that images with one other degradation hardly reach.

    A second adapter that isn't needed is the most expensive mistake: all further degradations together may join 2 % of
    the images that have only one.
    """
    others = ~held.present_MK[:, k] & (held.present_MK.sum(1) == 1)
    share = _ONE_TOO_MANY / max(1, held.present_MK.shape[1] - 1)
    return float(np.quantile(amplitude_MK[others, k], 1 - share)) if others.any() else 0.0


def _tail(values_M: np.ndarray, weight_M: np.ndarray) -> float:
    """Value that 1 % of such values exceed: read off, or, where there are too few, predicted as of a log-normal.

    The weights add up to the number of independent pictures.
    """
    if weight_M.sum() >= _MANY:
        return float(np.quantile(values_M, 0.99))
    return _predicted(values_M, weight_M, 0.01)


def _predicted(values_N: np.ndarray, weight_N: np.ndarray, rate: float) -> float:
    """Value that a new one exceeds at a rate, by Student's prediction of a log-normal.

    The weights add up to the number of independent pictures: its degrees of freedom and one.
    """
    logs_N, pictures = np.log(np.maximum(values_N, 1e-9)), weight_N.sum()
    mean = float((logs_N * weight_N).sum() / pictures)
    variance = float(((logs_N - mean) ** 2 * weight_N).sum() / max(pictures - 1, 1))
    return float(np.exp(mean + student_t.ppf(1 - rate, max(pictures - 1, 1)) * np.sqrt(variance * (1 + 1 / pictures))))


def at_rate(thresholds: Thresholds, geometry: Geometry, held: HeldOut, rate: float) -> Thresholds:
    """The same thresholds with the limits of another clean false-positive rate."""
    limits = _limits(geometry, held, rate)
    least_K = np.maximum(limits.least_K, thresholds.least_K)
    return replace(thresholds, limit_K=limits.limit_K, unknown_energy=limits.unknown_energy, least_K=least_K)


def _limits(geometry: Geometry, held: HeldOut, rate: float) -> Thresholds:
    score_NK, score_MK = geometry.scores(held.clean_ND), geometry.scores(held.damaged_MD)
    kinds = range(len(geometry.names))
    mean_K = weighted_mean(score_NK, held.weight_N)
    # A few pictures hold no 1 % tail: no limit lies below that of normally distributed scores (their deviation is 1),
    # where each degradation has its share of the rate.
    normal_K = mean_K + norm.ppf(1 - _OF_SCORES * rate / len(kinds))
    alone = [score_MK[held.alone(k), k] for k in kinds]
    limit_K = detection_limits(score_NK, held.weight_N, alone, normal_K, _OF_SCORES * rate)
    r_ND = geometry.residual(held.clean_ND)
    energy_N = (r_ND**2).sum(1)
    energy = weighted_quantile(energy_N, held.weight_N, 1 - (1 - _OF_SCORES) * rate)
    energy = max(energy, _predicted(energy_N, held.weight_N, (1 - _OF_SCORES) * rate))
    along_NK = r_ND @ geometry.unit_KD.T
    least_K = np.array([weighted_quantile(column, held.weight_N, 1 - rate / len(kinds)) for column in along_NK.T])
    ones_K = np.ones(len(kinds))
    return Thresholds(mean_K, limit_K, energy, ones_K, ones_K, least_K, 0.5, _L1)


def _exact(geometry: Geometry, held: HeldOut, thresholds: Thresholds) -> float:
    """Share of single degradations named exactly, plus half that share of mixtures."""
    decisions = decide(held.damaged_MD, geometry, thresholds, max_adapters=3, mode="composite")
    present = [frozenset(np.array(geometry.names)[row]) for row in held.present_MK]
    right_M = np.array([{n for n, _ in d.adapters} == p for d, p in zip(decisions, present, strict=True)])
    mixed_M = held.present_MK.sum(1) > 1
    return float(right_M[~mixed_M].mean() + (0.5 * right_M[mixed_M].mean() if mixed_M.any() else 0.0))


def detection_limits(
    score_NK: np.ndarray, weight_N: np.ndarray, alone: Sequence[np.ndarray], least_K: np.ndarray, rate: float
) -> np.ndarray:
    """Limits that at most ``rate`` of clean images exceed, over all degradations together, spent where it finds most.

    Of all ways to share a budget out among the degradations the one that finds the most damaged images (a knapsack with
    one choice of each kind, by dynamic programming, to 1/500 of the budget). An image may exceed several limits and
    counts once: the budget is the largest, by bisection, at which the rate is kept. No limit lies below the middle
    between clean and the mildest damage, so that a degradation that stands out far spends none of the false positives
    that others need.

    Args:
        score_NK: matched-filter scores of clean images.
        weight_N: what each of them counts.
        alone: for each degradation, scores of images that have it and no other.
        least_K: below which no limit lies.
        rate: share of clean images, in (0, 1).

    Returns:
        ``limit_K``.
    """
    share_N = weight_N / weight_N.sum()
    mildest_K = np.array([np.quantile(score_M, 0.05) for score_M in alone])
    floor_K = np.maximum(least_K, (weighted_mean(score_NK, weight_N) + mildest_K) / 2)
    choices = [_choices(score_NK[:, k], share_N, alone[k], floor_K[k]) for k in range(len(alone))]
    limit_K, low, high = _shared_out(choices, rate), rate, rate * len(alone)
    for _ in range(_HALVINGS):
        budget = (low + high) / 2
        tried_K = _shared_out(choices, budget)
        if share_N[(score_NK > tried_K).any(axis=1)].sum() > rate:
            high = budget
        else:
            limit_K, low = tried_K, budget
    return limit_K


def _shared_out(choices: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], budget: float) -> np.ndarray:
    """Of each degradation's choices, see :func:`_choices`, those that find most for no more than the budget."""
    best_B = np.zeros(_PORTIONS + 1)  # what is found at most for so many portions of the budget
    chosen = []
    for limit_C, spent_C, found_C in choices:
        cost_C = np.ceil(spent_C / budget * _PORTIONS - 1e-9).astype(int)
        cost_C, limit_C, found_C = (values[cost_C <= _PORTIONS] for values in (cost_C, limit_C, found_C))
        left_BC = np.arange(_PORTIONS + 1)[:, None] - cost_C
        total_BC = np.where(left_BC < 0, -np.inf, best_B[np.maximum(left_BC, 0)] + found_C)
        choice_B = total_BC.argmax(1)
        chosen.append((limit_C[choice_B], cost_C[choice_B]))
        best_B = total_BC.max(1)
    limit_K, left = np.empty(len(choices)), _PORTIONS
    for k, (limit_B, cost_B) in reversed(list(enumerate(chosen))):
        limit_K[k], left = limit_B[left], left - cost_B[left]
    return limit_K


def _choices(
    score_N: np.ndarray, share_N: np.ndarray, alone_M: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limits that a degradation may have, highest first; the shares of clean and of damaged images above each."""
    limit_C = np.unique(np.maximum(score_N, floor))[::-1]
    order = np.argsort(score_N)
    below = np.concatenate([[0.0], np.cumsum(share_N[order])])
    spent_C = np.maximum(0, 1 - below[np.searchsorted(score_N[order], limit_C, side="right")])
    found_C = 1 - np.searchsorted(np.sort(alone_M), limit_C, side="right") / len(alone_M)
    return limit_C, spent_C, found_C


def weighted_quantile(values_N: np.ndarray, weight_N: np.ndarray, share: float) -> float:
    """Smallest value that at least ``share`` of the weight does not exceed."""
    order = np.argsort(values_N)
    reached = np.cumsum(weight_N[order]) / weight_N.sum()
    return float(values_N[order][min(int(np.searchsorted(reached, share)), len(order) - 1)])


def weighted_mean(values_NK: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Mean of rows, weighted."""
    return np.asarray((values_NK * weight_N[:, None]).sum(0) / weight_N.sum())
