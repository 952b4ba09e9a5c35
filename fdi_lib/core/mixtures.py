"""References of two-fold mixtures: which second degradation explains an image better than the first one alone.

What two degradations do together to the features is not the sum of what each does: noise hides haze and turns its
difference. So a bank may hold the FDI of mixtures beside those of single degradations, and an image is compared with
each: log-likelihoods of Gaussians around the references, with one covariance for all (Fisher's linear discriminant).
Pure arrays. Suffixes: N images, K degradations, P mixtures, D feature numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Mixtures:
    """References of two-fold mixtures of a bank's degradations.

    Args:
        present_PK: bool, the two degradations of each mixture.
        fdi_PD: mean feature difference of each, degraded minus clean.
        spread_DD: shrunk covariance of degraded features about their references, single and mixed.
    """

    present_PK: np.ndarray
    fdi_PD: np.ndarray
    spread_DD: np.ndarray

    def keep(self, kept: Sequence[int], added: int = 0) -> Mixtures:
        """References of some of the degradations, in their new order, and of so many others that have no mixture."""
        whole_P = self.present_PK[:, list(kept)].sum(1) == 2
        present_PK = np.pad(self.present_PK[whole_P][:, list(kept)], ((0, 0), (0, added)))
        return replace(self, present_PK=present_PK, fdi_PD=self.fdi_PD[whole_P])

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored of them, by name; float32 and uint8."""
        return {
            "mixture.present": self.present_PK.astype(np.uint8),
            "mixture.fdi": np.ascontiguousarray(self.fdi_PD, np.float32),
            "mixture.spread": np.ascontiguousarray(self.spread_DD, np.float32),
        }

    @classmethod
    def among(cls, arrays: Mapping[str, np.ndarray]) -> Mixtures | None:
        """Find what :meth:`arrays` made; None where it isn't there."""
        if "mixture.present" not in arrays:
            return None
        fdi_PD, spread_DD = (arrays[f"mixture.{key}"].astype(np.float64) for key in ("fdi", "spread"))
        return cls(arrays["mixture.present"].astype(bool), fdi_PD, spread_DD)

    def discriminants(self, fdi_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fisher's discriminants of all references, see :func:`fisher`: each degradation alone, then the mixtures."""
        return fisher(np.concatenate([fdi_KD, self.fdi_PD]), self.spread_DD)

    def advantage(self, deviation_ND: np.ndarray, weight_DH: np.ndarray, offset_H: np.ndarray) -> np.ndarray:
        """Log-likelihood of each mixture less that of one of its degradations alone.

        Args:
            deviation_ND: features less the clean mean.
            weight_DH: weights of :meth:`discriminants`.
            offset_H: its offsets.

        Returns:
            N,K,K: of the mixture of k and j against k alone; minus infinity where there is no reference of both.
        """
        score_NH = deviation_ND @ weight_DH - offset_H
        kinds = self.present_PK.shape[1]
        advantage_NKK = np.full((len(deviation_ND), kinds, kinds), -np.inf)
        for p, present_K in enumerate(self.present_PK):
            k, j = np.flatnonzero(present_K)
            for first, second in ((k, j), (j, k)):
                advantage_NKK[:, first, second] = score_NH[:, kinds + p] - score_NH[:, first]
        return advantage_NKK


def fisher(mean_CD: np.ndarray, within_DD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fisher's linear discriminant of groups with one covariance.

    Args:
        mean_CD: mean of each group.
        within_DD: their common covariance, positive definite.

    Returns:
        Weights D,C and offsets C: ``x @ weights - offsets`` are log-likelihoods, but for what all groups share.
    """
    weight_DC = np.linalg.solve(within_DD, mean_CD.T)
    return weight_DC, (mean_CD.T * weight_DC).sum(0) / 2
