"""What a reference bank is made of: clean content, and an entry for each degradation, which its adapter carries along.

Suffixes: T tokens, D feature numbers, M held-out images, P severities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from fdi_lib.errors import WeightsError

_MONOCHROME = "monochrome."  # before what an adapter's fdi.safetensors holds of pictures in grey
NEEDED = ("tokens", "mean", "filter", "spread", "n", "held_out")  # of an adapter's fdi.safetensors, to recognise it


@dataclass(frozen=True)
class Content:
    """What clean images look like to the encoder.

    Args:
        mean_D: mean feature.
        covariance_DD: shrunk covariance.
        within_DD: shrunk covariance of paired differences within one degradation, averaged over degradations: what of
            a damage depends on the picture.
    """

    mean_D: np.ndarray
    covariance_DD: np.ndarray
    within_DD: np.ndarray


@dataclass(frozen=True)
class Severities:
    """Prototypes of one degradation by severity, mildest first: a mild one may point elsewhere than the mean.

    Args:
        fdi_PD: mean feature difference of the pairs of each severity.
        filter_PD: their matched filters.
    """

    fdi_PD: np.ndarray
    filter_PD: np.ndarray

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """What is stored of them, by name."""
        return {f"{prefix}severity_fdi": self.fdi_PD, f"{prefix}severity_filter": self.filter_PD}

    @classmethod
    def among(cls, arrays: dict[str, np.ndarray], prefix: str = "") -> Severities | None:
        """Find what :meth:`arrays` made; None where it isn't there."""
        if f"{prefix}severity_filter" not in arrays:
            return None
        return cls(*(arrays[f"{prefix}{key}"].astype(np.float64) for key in ("severity_fdi", "severity_filter")))


@dataclass(frozen=True)
class Entry:
    """What the bank knows of one degradation: an adapter's ``fdi.safetensors``.

    Args:
        name: of the degradation.
        tokens_TD: FDI as tokens, what the adapter takes as query (Eq. 2), float32.
        mean_D: mean difference of features, degraded less clean: the FDI, pooled, and what tones say.
        filter_D: its matched filter, see :func:`fdi_lib.core.similarity.matched_filter`.
        spread: share of the paired differences' energy that their mean explains, in [0, 1].
        pairs: number of reference pairs.
        held_out_MD: features of held-out images that have this degradation and no other.
        severities: further prototypes, by severity; None for the mean alone.
        looks: rows of ``held_out_MD`` that show the same picture.
        monochrome: the same of these pictures in grey, for the bank's monochrome part; None where nobody looked.
    """

    name: str
    tokens_TD: np.ndarray
    mean_D: np.ndarray
    filter_D: np.ndarray
    spread: float
    pairs: int
    held_out_MD: np.ndarray
    severities: Severities | None = None
    looks: int = 1
    monochrome: Entry | None = None

    def as_stored(self) -> Entry:
        """The entry as it will be read again."""
        return replace(
            self,
            held_out_MD=rounded(self.held_out_MD),
            mean_D=as_single(self.mean_D),
            filter_D=as_single(self.filter_D),
            severities=self.severities and Severities(*map(as_single, vars(self.severities).values())),
        )

    def save(self, folder: Path, clean_mean_D: np.ndarray, encoder_sha256: str) -> None:
        """Write ``fdi.safetensors``: the fields above, ``clean_mean`` D, and the encoder's hash as metadata."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = self._arrays() | {"clean_mean": np.ascontiguousarray(clean_mean_D, np.float32)}
        if self.monochrome:
            arrays |= {f"{_MONOCHROME}{key}": value for key, value in self.monochrome._arrays().items()}
        path = folder / "fdi.safetensors"
        save_file(arrays, path, metadata={"encoder_sha256": encoder_sha256, "name": self.name})
        path.chmod(0o644)  # safetensors writes files that only their owner may read

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            "tokens": self.tokens_TD,
            "mean": self.mean_D,
            "filter": self.filter_D,
            "spread": np.array([self.spread]),
            "n": np.array([self.pairs]),
        } | (self.severities.arrays() if self.severities else {})
        arrays |= {"looks": np.array([self.looks])} if self.looks > 1 else {}
        full = {key: np.ascontiguousarray(value, np.float32) for key, value in arrays.items()}
        return full | {"held_out": as_half(self.held_out_MD)}

    @classmethod
    def load(cls, folder: Path) -> Entry:
        """Read what :meth:`save` wrote; the name is the folder's.

        Raises:
            WeightsError: the file is missing or lacks what a bank needs.
        """
        path = folder / "fdi.safetensors"
        if not path.is_file():
            raise WeightsError(f"{path}: not found; an adapter folder holds it")
        a = load_file(path)
        missing = set(NEEDED) - set(a)
        if missing:
            raise WeightsError(f"{path}: lacks {', '.join(sorted(missing))}; train the adapter again with `fdi train`")
        of_grey = {key.removeprefix(_MONOCHROME): a[key] for key in a if key.startswith(_MONOCHROME)}
        entry = cls._among(folder.name, a)
        return replace(entry, monochrome=cls._among(folder.name, of_grey)) if of_grey else entry

    @classmethod
    def _among(cls, name: str, a: dict[str, np.ndarray]) -> Entry:
        mean_D, filter_D, held_MD = (a[key].astype(np.float64) for key in ("mean", "filter", "held_out"))
        spread, pairs, looks = float(a["spread"][0]), int(a["n"][0]), int(a.get("looks", [1])[0])
        return cls(name, a["tokens"], mean_D, filter_D, spread, pairs, held_MD, Severities.among(a), looks)


def as_half(values: np.ndarray) -> np.ndarray:
    """As float16, contiguous."""
    return np.ascontiguousarray(values, np.float16)


def rounded(values: np.ndarray) -> np.ndarray:
    """Rounded to float16, as float64."""
    return as_half(values).astype(np.float64)


def as_single(values: np.ndarray) -> np.ndarray:
    """Rounded to float32, as float64."""
    return values.astype(np.float32).astype(np.float64)
