"""Classification by FDI similarity: pure arrays in, decisions out. It knows neither encoders nor files.

An image's feature q has no clean twin, so the bank's clean mean stands in for it. In coordinates whitened by the
(shrunk) covariance of clean features and of what differs within a degradation, so that neither looks like damage:

    r   = W (q - mean)                                    what is left once clean content is accounted for
    s_k = cos(r, W FDI_k)                                 similarity to each reference direction
    z_k = F_k . (q - mean)                                the score that detects k: F_k is FDI_k's matched filter
    a   = argmin_{a>=0} ||r - sum_k a_k u_k||^2 + l1 sum_k a_k     u_k = W FDI_k / |W FDI_k|: amplitudes, a sparse code

Decisions use amplitudes, never raw weights a_k / |W FDI_k|: a weak prototype would own the maximum. Where the bank has
a network that learnt on mixtures, it decides what joins the first degradation (:mod:`fdi_lib.core.namer`).
Suffixes: N images, K degradations, D feature numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

from fdi_lib.core.decision import Decision, Mode, Verdict
from fdi_lib.core.namer import Namer
from fdi_lib.core.order import in_order_of_repair


@dataclass(frozen=True)
class Geometry:
    """The bank's coordinates.

    Args:
        names: K degradations.
        mean_D: mean clean feature.
        whitening_DD: symmetric inverse square root of the covariance that is no damage's signature.
        fdi_KD: mean feature difference, degraded minus clean, of each degradation (Eq. 2, pooled).
        filter_KD: matched filter of each degradation, see :func:`matched_filter`: what detects it.
        severity_filters: further ones of each degradation, P,D (by severity, P may be 0); empty where nothing has any.
        namer: what names the second degradation of a mixture, if there is such a thing.
    """

    names: tuple[str, ...]
    mean_D: np.ndarray
    whitening_DD: np.ndarray
    fdi_KD: np.ndarray
    filter_KD: np.ndarray
    severity_filters: tuple[np.ndarray, ...] = ()
    namer: Namer | None = None

    @property
    def unit_KD(self) -> np.ndarray:
        """Whitened directions of length one."""
        white_KD = self.fdi_KD @ self.whitening_DD
        return white_KD / np.linalg.norm(white_KD, axis=1, keepdims=True)

    def residual(self, q_ND: np.ndarray) -> np.ndarray:
        """Features -> whitened deviations from clean content, N,D."""
        return (q_ND - self.mean_D) @ self.whitening_DD

    def scores(self, q_ND: np.ndarray) -> np.ndarray:
        """Features -> matched-filter scores N,K, in standard deviations of clean content; the best over severities."""
        deviation_ND = q_ND - self.mean_D
        score_NK = deviation_ND @ self.filter_KD.T
        for k, filter_PD in enumerate(self.severity_filters):
            if len(filter_PD):
                score_NK[:, k] = np.maximum(score_NK[:, k], (deviation_ND @ filter_PD.T).max(1))
        return score_NK

    @property
    def nameable_K(self) -> np.ndarray:
        """Bool K: what the namer can name."""
        return self.namer.known_K if self.namer else np.zeros(len(self.names), bool)


@dataclass(frozen=True)
class Thresholds:
    """What calibration on held-out references found; see :mod:`fdi_lib.training.bank`.

    Args:
        clean_mean_K: mean matched-filter score of clean images.
        limit_K: score above which an image is not clean, see :func:`fdi_lib.core.calibration.detection_limits`.
        unknown_energy: |r|^2 above which an image without a detection is unknown.
        single_K: median amplitude of each degradation alone: the unit of composite weights.
        left_K: energy that no reference explains, above which an image said to be k is unknown instead (a high
            quantile of images known to be k).
        least_K: amplitude of k that images without it (clean, or with one other degradation) hardly reach: a further
            degradation of a mixture needs more, where the namer doesn't know both.
        member: so joins a further degradation from this share of its ``single`` amplitude on.
        l1: sparsity of the code, in amplitude.
        margin: a further degradation joins where the namer gives it more than these log odds.
        shown_K: and where its own score isn't below this, which it hardly is in mixtures.
    """

    clean_mean_K: np.ndarray
    limit_K: np.ndarray
    unknown_energy: float
    single_K: np.ndarray
    left_K: np.ndarray
    least_K: np.ndarray
    member: float
    l1: float
    margin: float = 0.0
    shown_K: np.ndarray | float = 0.0


def shrunk_covariance(x_ND: np.ndarray) -> np.ndarray:
    """Covariance of rows, see :func:`shrunk`."""
    return shrunk(np.cov(x_ND, rowvar=False, bias=True), len(x_ND))


def shrunk(covariance: np.ndarray, n: int) -> np.ndarray:
    """Shrink the covariance of n rows to its mean variance by the oracle approximating rule (Chen et al., 2010)."""
    d = len(covariance)
    mean_variance = np.trace(covariance) / d
    squares = float((covariance**2).mean())
    alpha = squares + mean_variance**2
    beta = (n + 1) * (squares - mean_variance**2 / d)
    weight = 1.0 if beta == 0 else min(1.0, alpha / beta)
    return (1 - weight) * covariance + weight * mean_variance * np.eye(d)


# Share of the spread of paired differences in the whitening: without it a weak direction (scratch) is taken for the
# spread of a strong one. 0.3 was the best of 0, 0.3, 1, 3 and 10 on calibration pictures.
_WITHIN = 0.3
# Amplitude, of that of it alone, that a degradation has at least whose own is hidden by another one.
_HIDDEN = 0.5
# Share of each number's own variance that is added for a filter: pictures that the encoder never saw vary in directions
# in which those that it learnt on hardly do. Of 0 to 1, 0.3 finds most on calibration pictures (docs/decisions/0020).
_RIDGE = 0.3


def whitening(content_DD: np.ndarray, within_DD: np.ndarray) -> np.ndarray:
    """Whitening by what is no damage's signature: the covariance of clean features and the spread of differences."""
    return inverse_root(content_DD + _WITHIN * within_DD)


def matched_filter(fdi_D: np.ndarray, content_DD: np.ndarray, degraded_DD: np.ndarray) -> np.ndarray:
    """The direction along which a degradation stands out most from clean content and from its own variety.

    It is Fisher's discriminant of clean against degraded features with the FDI as difference of means.

    Args:
        fdi_D: the FDI.
        content_DD: covariance of clean features.
        degraded_DD: covariance of degraded features.

    Returns:
        D numbers; clean content projects on it with standard deviation 1.
    """
    ridge_DD = np.diag(_RIDGE * np.diag(content_DD))
    direction_D = np.linalg.solve(content_DD + _WITHIN * degraded_DD + ridge_DD, fdi_D)
    return np.asarray(direction_D / np.sqrt(direction_D @ content_DD @ direction_D))


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


def statistics(q_ND: np.ndarray, geometry: Geometry, thresholds: Thresholds) -> dict[str, np.ndarray]:
    """Everything a decision is made of, from features.

    Returns:
        ``cosine``, ``amplitude``, ``score`` N,K; ``detect`` N,K (score, as a share of the way from clean to its limit);
        ``energy`` N (|r|^2); ``residual`` N (unexplained share of it); ``odds`` N,K (the namer's log odds, minus
        infinity for what it can't name).
    """
    unit_KD, r_ND = geometry.unit_KD, geometry.residual(q_ND)
    energy_N, mean_K = (r_ND**2).sum(1), thresholds.clean_mean_K
    score_NK = geometry.scores(q_ND)
    amplitude_NK = sparse_code(r_ND, unit_KD, thresholds.l1)
    left_N = ((r_ND - amplitude_NK @ unit_KD) ** 2).sum(1)
    return {
        "cosine": r_ND @ unit_KD.T / np.sqrt(energy_N)[:, None],
        "amplitude": amplitude_NK,
        "score": score_NK,
        "detect": (score_NK - mean_K) / (thresholds.limit_K - mean_K),
        "energy": energy_N,
        "residual": left_N / energy_N,
        "odds": geometry.namer.log_odds(r_ND) if geometry.namer else np.full_like(amplitude_NK, -np.inf),
    }


def decide(
    q_ND: np.ndarray,
    geometry: Geometry,
    thresholds: Thresholds,
    *,
    max_adapters: int,
    mode: Mode,
    strength: float = 1.0,
    strengths: Mapping[str, float] | None = None,
) -> list[Decision]:
    """Decide for each image: clean, unknown, one degradation, or a mixture.

    Args:
        q_ND: features.
        geometry: the bank's coordinates.
        thresholds: the bank's thresholds.
        max_adapters: at most so many degradations in a mixture.
        mode: ``progressive`` (weights are ``strength``, last damage first) or ``composite`` (weights are amplitudes
            in units of the degradation alone, clipped to [0, 1.25], times ``strength``; sorted by name).
        strength: factor on every weight.
        strengths: factors that single names have in its place.
    """
    found = statistics(q_ND, geometry, thresholds)
    decisions = []
    for i in range(len(q_ND)):
        detect_K, amplitude_K = found["detect"][i], found["amplitude"][i]
        energy, residual = float(found["energy"][i]), float(found["residual"][i])
        left, detected = residual * energy, bool(detect_K.max() > 1)
        members = _members({key: values[i] for key, values in found.items()}, geometry, thresholds, max_adapters)
        if not detected and energy <= thresholds.unknown_energy:
            verdict: Verdict = "clean"
        elif not detected or not members or left > max(thresholds.left_K[k] for k in members):
            verdict = "unknown"
        else:
            verdict = "single" if len(members) == 1 else "mixture"
        named = {geometry.names[k]: weight for k, weight in members.items()}
        decisions.append(
            Decision(
                verdict,
                _weighted(named, mode, strength, strengths or {}) if verdict in ("single", "mixture") else (),
                mode,
                scores={n: float(s) for n, s in zip(geometry.names, found["cosine"][i], strict=True)},
                amplitudes={n: float(a) for n, a in zip(geometry.names, amplitude_K, strict=True)},
                energy=float(detect_K.max()),
                residual=residual,
            )
        )
    return decisions


def _members(
    found: Mapping[str, np.ndarray], geometry: Geometry, thresholds: Thresholds, most: int
) -> dict[int, float]:
    """What an image would be restored from, the first one first, with amplitudes in units of each alone.

    Args:
        found: what :func:`statistics` says of it.
        geometry: the bank's coordinates.
        thresholds: the bank's.
        most: so many at most.
    """
    detect_K, amplitude_K = found["detect"], found["amplitude"]
    relative_K, nameable_K = amplitude_K / thresholds.single_K, geometry.nameable_K
    # First what is detected by itself and known to leave as much unexplained as is left here: half of a halftone
    # looks like noise, but noise leaves nothing. Then what is detected at all, then what explains most.
    fits_K = (detect_K > 1) & (found["residual"] * found["energy"] <= thresholds.left_K)
    first, *others = np.lexsort((-amplitude_K, detect_K <= 1, ~fits_K)).tolist()
    members = {first: relative_K[first]} if amplitude_K[first] > 0 else {}
    if members and nameable_K[first]:
        odds_K = np.where(found["score"] < thresholds.shown_K, -np.inf, found["odds"])
        partner = max(others, key=lambda k: odds_K[k])  # a namer knows two at least
        if odds_K[partner] > thresholds.margin:
            members[partner] = max(relative_K[partner], _HIDDEN)
    # Where the namer doesn't know both, the amplitude has to do.
    joins_K = (relative_K >= thresholds.member) & (amplitude_K > thresholds.least_K)
    joins_K &= ~(nameable_K & nameable_K[first])
    members |= {k: relative_K[k] for k in others[: most - 1] if joins_K[k]}
    return dict(list(members.items())[:most])


def _weighted(
    amplitudes: Mapping[str, float], mode: Mode, strength: float, strengths: Mapping[str, float]
) -> tuple[tuple[str, float], ...]:
    """Names with the weights, and in the order, that adapters are applied with; see :func:`decide`."""
    if mode == "progressive" or len(amplitudes) == 1:
        return tuple((name, strengths.get(name, strength)) for name in in_order_of_repair(amplitudes))
    clipped = {name: float(np.clip(amplitude, 0, 1.25)) for name, amplitude in amplitudes.items()}
    return tuple((name, round(w * strengths.get(name, strength), 2)) for name, w in sorted(clipped.items()))
