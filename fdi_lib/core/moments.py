"""Mean and covariance of a stream in constant memory: batches are reduced to moments, and moments are merged.

Moments of disjoint parts merge to those of the whole, in any order and grouping, but for rounding (Chan, Golub and
LeVeque, 1983); all sums are float64. A bottom-k sample is merged in the same way: it keeps the k rows whose names hash
lowest, which is a uniform sample that depends on neither order nor grouping. Knows neither features nor files.
Suffixes: N rows, D numbers a row.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of rows.

    Args:
        count: rows seen.
        mean_D: float64.
        scatter_DD: float64; sum over rows of the outer product of their deviation from the mean.
    """

    count: int
    mean_D: np.ndarray
    scatter_DD: np.ndarray

    @classmethod
    def of(cls, x_ND: np.ndarray) -> Moments:
        """Moments of a batch, any float type; N may be 0."""
        mean = np.asarray(x_ND).sum(0, dtype=np.float64) / max(len(x_ND), 1)
        deviation = x_ND - mean
        return cls(len(x_ND), mean, deviation.T @ deviation)

    @classmethod
    def none(cls, width: int) -> Moments:
        """Moments of no rows of ``width`` numbers."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def merge(self, other: Moments) -> Moments:
        """Moments of both parts together."""
        count = self.count + other.count
        if not count:
            return self
        step = other.mean_D - self.mean_D
        weight = self.count * other.count / count
        scatter = self.scatter_DD + other.scatter_DD
        scatter += weight * np.outer(step, step)
        return Moments(count, self.mean_D + step * (other.count / count), scatter)

    @property
    def covariance_DD(self) -> np.ndarray:
        """Covariance, divided by the count (not by one less)."""
        return self.scatter_DD / max(self.count, 1)

    @property
    def mean_square(self) -> float:
        """Mean squared length of a row, about zero."""
        return float(np.trace(self.covariance_DD) + self.mean_D @ self.mean_D)


@dataclass(frozen=True)
class Sample:
    """At most ``limit`` rows, those whose keys are lowest: uniform among the names seen.

    Args:
        limit: rows kept at most.
        key_N: uint64, ascending.
        row_ND: float32 rows.
    """

    limit: int
    key_N: np.ndarray
    row_ND: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], sides: Sequence[np.ndarray], limit: int, seed: int) -> Sample:
        """Sample of a batch: unique names, and arrays of N rows that are put side by side."""
        key_N = np.array([_key(name, seed) for name in names], np.uint64)
        lowest = np.argsort(key_N, kind="stable")[:limit]
        return cls(limit, key_N[lowest], np.concatenate([x[lowest] for x in sides], axis=1).astype(np.float32))

    def merge(self, other: Sample) -> Sample:
        """Sample of both parts together."""
        key_N = np.concatenate([self.key_N, other.key_N])
        lowest = np.argsort(key_N, kind="stable")[: self.limit]
        return Sample(self.limit, key_N[lowest], np.concatenate([self.row_ND, other.row_ND])[lowest])


@dataclass(frozen=True)
class PairMoments:
    """What a reference bank needs of the pairs of one degradation, whatever their number.

    Args:
        clean: moments of the clean pictures' features.
        degraded: the same of the degraded pictures.
        difference: moments of degraded minus clean features; its mean holds the pooled FDI.
        token_sum_TD: float64 sum of degraded minus clean tokens (T tokens of D numbers); over the count it is the FDI.
        sample: rows of clean and degraded features, one behind the other (2D), for calibration and prototypes.
    """

    clean: Moments
    degraded: Moments
    difference: Moments
    token_sum_TD: np.ndarray
    sample: Sample

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        clean_ND: np.ndarray,
        degraded_ND: np.ndarray,
        token_sum_TD: np.ndarray,
        sample_limit: int,
        seed: int,
    ) -> PairMoments:
        """Reduce a batch of pairs; ``token_sum_TD`` is the sum over the batch."""
        sample = Sample.of(names, (clean_ND, degraded_ND), sample_limit, seed)
        difference = np.subtract(degraded_ND, clean_ND, dtype=np.float64)
        sides = Moments.of(clean_ND), Moments.of(degraded_ND)
        return cls(*sides, Moments.of(difference), np.asarray(token_sum_TD, np.float64), sample)

    def merge(self, other: PairMoments) -> PairMoments:
        """Moments of both parts together."""
        return PairMoments(
            self.clean.merge(other.clean),
            self.degraded.merge(other.degraded),
            self.difference.merge(other.difference),
            self.token_sum_TD + other.token_sum_TD,
            self.sample.merge(other.sample),
        )

    @property
    def count(self) -> int:
        """Pairs."""
        return self.difference.count

    @property
    def fdi_tokens_TD(self) -> np.ndarray:
        """Mean difference of tokens (Eq. 2)."""
        return self.token_sum_TD / max(self.count, 1)

    @property
    def spread(self) -> float:
        """Share of the differences' energy that their mean explains, in [0, 1]."""
        return float(self.difference.mean_D @ self.difference.mean_D) / max(self.difference.mean_square, 1e-12)

    def to_bytes(self) -> bytes:
        """As one .npz file, uncompressed."""
        sink = io.BytesIO()
        c, g, d, s = self.clean, self.degraded, self.difference, self.sample
        np.savez(
            sink, count=c.count, clean_mean=c.mean_D, clean_scatter=c.scatter_DD, mean=d.mean_D, scatter=d.scatter_DD,
            degraded_mean=g.mean_D, degraded_scatter=g.scatter_DD,
            tokens=self.token_sum_TD, limit=s.limit, key=s.key_N, row=s.row_ND,
        )  # fmt: skip
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> PairMoments:
        """Read what :meth:`to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as a:
            count = int(a["count"])
            return cls(
                Moments(count, a["clean_mean"], a["clean_scatter"]),
                Moments(count, a["degraded_mean"], a["degraded_scatter"]),
                Moments(count, a["mean"], a["scatter"]),
                a["tokens"],
                Sample(int(a["limit"]), a["key"], a["row"]),
            )


def merged(parts: Iterable[PairMoments]) -> PairMoments | None:
    """Merge a stream of parts, holding two at a time; None for no part."""
    whole: PairMoments | None = None
    for part in parts:
        whole = part if whole is None else whole.merge(part)
    return whole


def _key(name: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
