"""Classification by FDI similarity: pure arrays in, decisions out. It knows neither encoders nor files.

An image's feature q has no clean twin, so the bank's clean mean stands in for it. In coordinates whitened by the
(shrunk) covariance of clean features and of what differs within a degradation, so that neither looks like damage:

    r   = W (q - mean)                                    what is left once clean content is accounted for
    s_k = cos(r, W FDI_k)                                 similarity to each reference direction
    a   = argmin_{a>=0} ||r - sum_k a_k u_k||^2 + l1 sum_k a_k     u_k = W FDI_k / |W FDI_k|: amplitudes, a sparse code

Decisions use amplitudes, never raw weights a_k / |W FDI_k|: a weak prototype would own the maximum.
Suffixes: N images, K degradations, D feature numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

from fdi_lib.core.decision import Decision, Mode, Verdict
from fdi_lib.core.order import in_order_of_repair


@dataclass(frozen=True)
class Geometry:
    """The bank's coordinates.

    Args:
        names: K degradations.
        mean_D: mean clean feature.
        whitening_DD: symmetric inverse square root of the covariance that is no damage's signature.
        fdi_KD: mean feature difference, degraded minus clean, of each degradation (Eq. 2, pooled).
    """

    names: tuple[str, ...]
    mean_D: np.ndarray
    whitening_DD: np.ndarray
    fdi_KD: np.ndarray

    @property
    def unit_KD(self) -> np.ndarray:
        """Whitened directions of length one."""
        white_KD = self.fdi_KD @ self.whitening_DD
        return white_KD / np.linalg.norm(white_KD, axis=1, keepdims=True)

    def residual(self, q_ND: np.ndarray) -> np.ndarray:
        """Features -> whitened deviations from clean content, N,D."""
        return (q_ND - self.mean_D) @ self.whitening_DD


@dataclass(frozen=True)
class Thresholds:
    """What calibration on held-out references found; see :mod:`fdi_lib.training.bank`.

    Args:
        clean_mean_K: mean matched-filter score r . u_k of clean images.
        limit_K: score above which an image is not clean, see :func:`detection_limits`.
        unknown_energy: |r|^2 above which an image without a detection is unknown.
        single_K: median amplitude of each degradation alone: the unit of composite weights.
        left_K: energy that no reference explains, above which an image said to be k is unknown instead (a high
            quantile of images known to be k).
        member: a further degradation joins a mixture from this share of its ``single`` amplitude on, if its amplitude
            is above its limit, too.
        l1: sparsity of the code, in amplitude.
    """

    clean_mean_K: np.ndarray
    limit_K: np.ndarray
    unknown_energy: float
    single_K: np.ndarray
    left_K: np.ndarray
    member: float
    l1: float


@dataclass(frozen=True)
class CleanReferences:
    """Held-out clean images, from which limits are read for any false-positive rate.

    Args:
        score_NK: matched-filter scores.
        energy_N: |r|^2.
        weight_N: what each image counts: tiles of one picture are no independent images.
        mildest_K: score of the mildest known damage (a low quantile) of each degradation.
    """

    score_NK: np.ndarray
    energy_N: np.ndarray
    weight_N: np.ndarray
    mildest_K: np.ndarray


def detection_limits(clean: CleanReferences, rate: float) -> tuple[np.ndarray, float]:
    """Limits that about ``rate`` of clean images exceed: of the scores (four fifths of it) and of the energy.

    The rate is of *images*, over all degradations together. Each degradation may be exceeded by the same share of clean
    images, found by bisection; but no limit lies below the middle between clean and the mildest damage, so that a
    degradation that stands out far spends none of the false positives that the others need.

    Returns:
        ``limit_K`` and ``unknown_energy``.
    """
    middle_K = (weighted_mean(clean.score_NK, clean.weight_N) + clean.mildest_K) / 2

    def limits(share: float) -> np.ndarray:
        own_K = [weighted_quantile(column, clean.weight_N, 1 - share) for column in clean.score_NK.T]
        return np.maximum(np.array(own_K), middle_K)

    low, high = 0.0, 1.0
    for _ in range(30):
        share = (low + high) / 2
        exceeded = (clean.score_NK > limits(share)).any(axis=1)
        if (exceeded * clean.weight_N).sum() > 0.8 * rate * clean.weight_N.sum():
            high = share
        else:
            low = share
    return limits(low), weighted_quantile(clean.energy_N, clean.weight_N, 1 - 0.2 * rate)


def weighted_quantile(values_N: np.ndarray, weight_N: np.ndarray, share: float) -> float:
    """Smallest value that at least ``share`` of the weight does not exceed."""
    order = np.argsort(values_N)
    reached = np.cumsum(weight_N[order]) / weight_N.sum()
    return float(values_N[order][min(int(np.searchsorted(reached, share)), len(order) - 1)])


def weighted_mean(values_NK: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Mean of rows, weighted."""
    return np.asarray((values_NK * weight_N[:, None]).sum(0) / weight_N.sum())


def shrunk_covariance(x_ND: np.ndarray) -> np.ndarray:
    """Covariance shrunk towards its mean variance by the oracle approximating rule (Chen et al., 2010)."""
    n, d = x_ND.shape
    covariance = np.cov(x_ND, rowvar=False, bias=True)
    mean_variance = np.trace(covariance) / d
    squares = float((covariance**2).mean())
    alpha = squares + mean_variance**2
    beta = (n + 1) * (squares - mean_variance**2 / d)
    weight = 1.0 if beta == 0 else min(1.0, alpha / beta)
    return (1 - weight) * covariance + weight * mean_variance * np.eye(d)


def inverse_root(covariance_DD: np.ndarray) -> np.ndarray:
    """Symmetric inverse square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(covariance_DD)
    return (vectors / np.sqrt(values)) @ vectors.T


def sparse_code(r_ND: np.ndarray, unit_KD: np.ndarray, l1: float) -> np.ndarray:
    """Non-negative amplitudes N,K of the whitened residuals on the unit directions, with an l1 penalty."""
    gram_KK = unit_KD @ unit_KD.T + 1e-6 * np.eye(len(unit_KD))
    upper_KK = cholesky(gram_KK)
    target_NK = solve_triangular(upper_KK, (r_ND @ unit_KD.T - l1 / 2).T, trans="T").T
    return np.stack([nnls(upper_KK, target)[0] for target in target_NK])


def statistics(r_ND: np.ndarray, geometry: Geometry, thresholds: Thresholds) -> dict[str, np.ndarray]:
    """Everything a decision is made of.

    Returns:
        ``cosine`` N,K; ``amplitude`` N,K; ``detect`` N (largest score as a share of the way from clean to its limit);
        ``energy`` N (|r|^2); ``residual`` N (unexplained share of it).
    """
    unit_KD = geometry.unit_KD
    score_NK = r_ND @ unit_KD.T
    energy_N, mean_K = (r_ND**2).sum(1), thresholds.clean_mean_K
    amplitude_NK = sparse_code(r_ND, unit_KD, thresholds.l1)
    left_N = ((r_ND - amplitude_NK @ unit_KD) ** 2).sum(1)
    return {
        "cosine": score_NK / np.sqrt(energy_N)[:, None],
        "amplitude": amplitude_NK,
        "detect": ((score_NK - mean_K) / (thresholds.limit_K - mean_K)).max(1),
        "energy": energy_N,
        "residual": left_N / energy_N,
    }


def decide(
    q_ND: np.ndarray,
    geometry: Geometry,
    thresholds: Thresholds,
    *,
    max_adapters: int,
    mode: Mode,
    strength: float = 1.0,
) -> list[Decision]:
    """Decide for each image: clean, unknown, one degradation, or a mixture.

    Args:
        q_ND: pooled features.
        geometry: the bank's coordinates.
        thresholds: the bank's thresholds.
        max_adapters: at most so many degradations in a mixture.
        mode: ``progressive`` (weights are ``strength``, last damage first) or ``composite`` (weights are amplitudes
            in units of the degradation alone, clipped to [0, 1.25], times ``strength``; sorted by name).
        strength: factor on every weight.
    """
    found = statistics(geometry.residual(q_ND), geometry, thresholds)
    decisions = []
    for i in range(len(q_ND)):
        amplitude_K, energy, residual = found["amplitude"][i], float(found["energy"][i]), float(found["residual"][i])
        relative_K = amplitude_K / thresholds.single_K
        best = np.argsort(-amplitude_K)[:max_adapters]
        joins_K = (relative_K >= thresholds.member) & (amplitude_K > thresholds.limit_K)
        members = [int(k) for j, k in enumerate(best) if amplitude_K[k] > 0 and (j == 0 or joins_K[k])]
        detected = found["detect"][i] > 1
        if not detected and energy <= thresholds.unknown_energy:
            verdict: Verdict = "clean"
            members = []
        elif not detected or not members or residual * energy > max(thresholds.left_K[members]):
            verdict, members = "unknown", []
        else:
            verdict = "single" if len(members) == 1 else "mixture"
        weights = {geometry.names[k]: float(np.clip(relative_K[k], 0, 1.25)) for k in members}
        if mode == "progressive" or len(members) == 1:
            pairs = tuple((name, strength) for name in in_order_of_repair(weights))
        else:
            pairs = tuple((name, round(weights[name] * strength, 2)) for name in sorted(weights))
        decisions.append(
            Decision(
                verdict,
                pairs,
                mode,
                scores={n: float(s) for n, s in zip(geometry.names, found["cosine"][i], strict=True)},
                amplitudes={n: float(a) for n, a in zip(geometry.names, amplitude_K, strict=True)},
                energy=float(found["detect"][i]),
                residual=residual,
            )
        )
    return decisions
