"""A small network that names all degradations of an image at once: what decides about a second one.

What two degradations do together to the features is not the sum of what each does: noise hides haze and turns its
difference, and how far depends on how strong both are. So a bank may hold a network that learnt on images with none,
one and two of them (:mod:`fdi_lib.training.namer`). Whether an image is damaged at all, and what comes first, the
matched filters say. Pure arrays. Suffixes: N images, K degradations, D feature numbers, I and O a layer's inputs and
outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import erf

_PREFIX = "namer."


@dataclass(frozen=True)
class Namer:
    """Layers of a perceptron with GELU between them.

    Args:
        known_K: bool, which of the bank's degradations it names.
        weights: of each layer, I,O; the first takes whitened deviations D, the last gives one number a degradation.
        biases: of each layer, O.
    """

    known_K: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    def log_odds(self, r_ND: np.ndarray) -> np.ndarray:
        """Whitened deviations from clean content -> log odds of each degradation, N,K; -inf for those unknown to it."""
        x_NI = r_ND
        for weight_IO, bias_O in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x_NI = _gelu(x_NI @ weight_IO + bias_O)
        return np.where(self.known_K, x_NI @ self.weights[-1] + self.biases[-1], -np.inf)

    def fits(self, kinds: int, numbers: int) -> bool:
        """Whether it is whole, finite, and one of so many degradations and feature numbers."""
        outputs = [numbers, *(len(bias_O) for bias_O in self.biases)]
        shapes = list(itertools.pairwise(outputs))
        finite = all(np.isfinite(values).all() for values in (*self.weights, *self.biases))
        return finite and [w.shape for w in self.weights] == shapes and outputs[-1] == len(self.known_K) == kinds

    def keep(self, kept: Sequence[int], added: int = 0) -> Namer | None:
        """It of some of the degradations, in their new order, and of so many others that it can't name.

        Where there are no two that it can, there is no second name to give: None.
        """
        known_K = np.pad(self.known_K[list(kept)], (0, added))
        if known_K.sum() < 2:
            return None
        weight_IO = np.pad(self.weights[-1][:, list(kept)], ((0, 0), (0, added)))
        bias_O = np.pad(self.biases[-1][list(kept)], (0, added))
        return replace(
            self, known_K=known_K, weights=(*self.weights[:-1], weight_IO), biases=(*self.biases[:-1], bias_O)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored of it, by name; float16 and uint8."""
        stored = {f"{_PREFIX}known": self.known_K.astype(np.uint8)}
        for i, (weight_IO, bias_O) in enumerate(zip(self.weights, self.biases, strict=True)):
            stored |= {f"{_PREFIX}{i}.weight": weight_IO, f"{_PREFIX}{i}.bias": bias_O}
        return {key: value if value.dtype == np.uint8 else value.astype(np.float16) for key, value in stored.items()}

    @classmethod
    def among(cls, arrays: Mapping[str, np.ndarray]) -> Namer | None:
        """Find what :meth:`arrays` made, which may not :meth:`fit <fits>`; None where it isn't there."""
        if f"{_PREFIX}known" not in arrays:
            return None
        weights, biases = (
            tuple(arrays[key].astype(np.float64) for key in sorted(arrays) if key.startswith(_PREFIX) and part in key)
            for part in (".weight", ".bias")
        )
        return cls(arrays[f"{_PREFIX}known"].astype(bool), weights, biases)


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * (1 + erf(x / np.sqrt(2))) / 2)
