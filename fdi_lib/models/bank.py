"""The reference bank: one constant FDI per degradation, the geometry of clean features, and calibrated thresholds.

It is data made by :mod:`fdi_lib.training.bank` and read by the classifier and the adapters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from fdi_lib.core.similarity import CleanReferences, Geometry, Thresholds, detection_limits
from fdi_lib.errors import WeightsError


@dataclass(frozen=True)
class ReferenceBank:
    """Everything that a decision is compared with.

    Args:
        geometry: clean mean, whitening and FDI directions, for the pooled feature.
        thresholds: calibrated at the bank's own clean false-positive rate.
        fdi_tokens: float32 K,T,D: the FDI of each degradation as tokens, what adapters take as query (Eq. 2).
        spread_K: share of the paired differences' energy that their mean explains, in [0, 1].
        pairs_K: reference pairs per degradation.
        clean: held-out clean references, from which limits for other false-positive rates are read.
        encoder_sha256: fingerprint of the encoder whose features these are.
    """

    geometry: Geometry
    thresholds: Thresholds
    fdi_tokens: np.ndarray
    spread_K: np.ndarray
    pairs_K: np.ndarray
    clean: CleanReferences
    encoder_sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Degradations in the bank's order."""
        return self.geometry.names

    def at_rate(self, clean_false_positive_rate: float) -> Thresholds:
        """Return the thresholds at another clean false-positive rate."""
        limit_K, unknown_energy = detection_limits(self.clean, clean_false_positive_rate)
        return replace(self.thresholds, limit_K=limit_K, unknown_energy=unknown_energy)

    def tokens_of(self, name: str) -> np.ndarray:
        """FDI tokens T,D of one degradation."""
        return np.asarray(self.fdi_tokens[self.names.index(name)])

    def save_fdi(self, name: str, folder: Path) -> None:
        """Write one degradation's ``fdi.safetensors``, which an adapter's folder carries.

        Tensors: ``tokens`` T,D; ``mean`` and ``clean_mean`` D (pooled feature); ``spread`` and ``n`` (scalars); the
        encoder's hash is in the metadata.
        """
        k = self.names.index(name)
        arrays = {
            "tokens": self.fdi_tokens[k],
            "mean": self.geometry.fdi_KD[k],
            "clean_mean": self.geometry.mean_D,
            "spread": self.spread_K[k : k + 1],
            "n": self.pairs_K[k : k + 1],
        }
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: np.ascontiguousarray(value, np.float32) for key, value in arrays.items()},
            folder / "fdi.safetensors",
            metadata={"encoder_sha256": self.encoder_sha256},
        )

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``bank.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        g, t = self.geometry, self.thresholds
        arrays = {
            "mean": g.mean_D,
            "whitening": g.whitening_DD,
            "fdi": g.fdi_KD,
            "fdi_tokens": self.fdi_tokens,
            "spread": self.spread_K,
            "pairs": self.pairs_K,
            "clean_score": self.clean.score_NK,
            "clean_energy": self.clean.energy_N,
            "clean_weight": self.clean.weight_N,
            "mildest": self.clean.mildest_K,
            "clean_mean": t.clean_mean_K,
            "limit": t.limit_K,
            "single": t.single_K,
            "left": t.left_K,
        }
        save_file({k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}, folder / "bank.safetensors")
        scalars = {
            "unknown_energy": t.unknown_energy,
            "member": t.member,
            "l1": t.l1,
        }
        config = {"names": list(g.names), "encoder_sha256": self.encoder_sha256, "thresholds": scalars}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path, encoder_sha256: str | None = None) -> ReferenceBank:
        """Load a bank, checking that it was made with the given encoder.

        Raises:
            WeightsError: a file is missing, or the bank belongs to another encoder.
        """
        path = folder / "bank.safetensors"
        if not path.is_file():
            raise WeightsError(f"{path}: not found; a bank folder holds bank.safetensors and config.json")
        config = json.loads((folder / "config.json").read_text())
        if encoder_sha256 is not None and config["encoder_sha256"] != encoder_sha256:
            raise WeightsError(
                f"{path}: made with encoder {config['encoder_sha256'][:12]}, found encoder "
                f"{encoder_sha256[:12]}; build the bank again with `fdi bank build`"
            )
        a = {k: v.astype(np.float64) for k, v in load_file(path).items()}
        scalars = config["thresholds"]
        return cls(
            Geometry(tuple(config["names"]), a["mean"], a["whitening"], a["fdi"]),
            Thresholds(
                a["clean_mean"],
                a["limit"],
                scalars["unknown_energy"],
                a["single"],
                a["left"],
                scalars["member"],
                scalars["l1"],
            ),
            a["fdi_tokens"].astype(np.float32),
            a["spread"],
            a["pairs"],
            CleanReferences(a["clean_score"], a["clean_energy"], a["clean_weight"], a["mildest"]),
            config["encoder_sha256"],
        )
