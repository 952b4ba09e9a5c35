"""The reference bank: one constant FDI per degradation, what clean content looks like, and calibrated thresholds.

It is data made by :mod:`fdi_lib.training.bank` and read by the classifier and the adapters. It keeps the features of
its held-out references, so that it can be calibrated anew: at another rate, or with one more degradation.
Suffixes: K degradations, T tokens, D feature numbers, N and M held-out clean and damaged images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fdi_lib.core.calibration import HeldOut
from fdi_lib.core.judge import Judge
from fdi_lib.core.mixtures import Mixtures
from fdi_lib.core.similarity import Geometry, Thresholds, whitening
from fdi_lib.errors import WeightsError
from fdi_lib.models.configs import read_config
from fdi_lib.models.entry import NEEDED, Content, Entry, Severities, as_half, as_single


@dataclass(frozen=True)
class ReferenceBank:
    """Everything that a decision is compared with.

    Args:
        entries: one per degradation, in the bank's order.
        content: clean images.
        clean_ND: features of held-out clean images.
        weight_N: what each of them counts.
        whole_N: bool, which of them are whole pictures; the others are details, cut from larger ones.
        mixed_MD: features of held-out mixtures.
        mixed_MK: bool, which degradations each of them has.
        rate: clean false-positive rate of the thresholds.
        encoder_sha256: fingerprint of the encoder whose features these are.
        whole_only: degradations that are looked for in whole pictures only: too many details look like them.
        calibrated: thresholds of ``detail`` and ``whole`` found before; None finds them when they are asked for.
        mixtures: references of two degradations together; None where there is none.
    """

    entries: tuple[Entry, ...]
    content: Content
    clean_ND: np.ndarray
    weight_N: np.ndarray
    whole_N: np.ndarray
    mixed_MD: np.ndarray
    mixed_MK: np.ndarray
    rate: float
    encoder_sha256: str
    whole_only: frozenset[str] = frozenset()
    calibrated: tuple[Thresholds, Thresholds] | None = None
    mixtures: Mixtures | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Degradations in the bank's order."""
        return tuple(entry.name for entry in self.entries)

    def judge(self, kind: Literal["detail", "whole"]) -> Judge:
        """The one that images of a kind are judged by."""
        return self.detail if kind == "detail" else self.whole

    @cached_property
    def detail(self) -> Judge:
        """Judges images that may be cuts of larger ones; by ``whole_only``, too, where there is nothing else."""
        known = self
        for name in sorted(self.whole_only) if self.whole_only < set(self.names) else ():
            known = known.without(name)
        return known._judge(~self.whole_N, self.calibrated and self.calibrated[0])

    @cached_property
    def whole(self) -> Judge:
        """Judges whole pictures; as it judges details where no clean whole picture was held out."""
        if not self.whole_N.any() and not self.whole_only:
            return self.detail
        return self._judge(self.whole_N, self.calibrated and self.calibrated[1])

    @cached_property
    def geometry(self) -> Geometry:
        """The coordinates in which features are compared with all entries."""
        white_DD = whitening(self.content.covariance_DD, self.content.within_DD)
        fdi_KD, filter_KD = (np.stack([getattr(e, part) for e in self.entries]) for part in ("mean_D", "filter_D"))
        further = tuple(e.severities.filter_PD if e.severities else filter_KD[:0] for e in self.entries)
        return Geometry(self.names, self.content.mean_D, white_DD, fdi_KD, filter_KD, further, self.mixtures)

    def _judge(self, own_N: np.ndarray, found: Thresholds | None) -> Judge:
        """One that compares with all entries, by those clean references; by all others, where there are none."""
        clean_N = own_N if own_N.any() else ~own_N
        counts = [len(entry.held_out_MD) for entry in self.entries]
        alone = np.repeat(np.eye(len(counts), dtype=bool), counts, axis=0)
        damaged = np.concatenate([*(entry.held_out_MD for entry in self.entries), self.mixed_MD])
        present = np.concatenate([alone, self.mixed_MK])
        weight_M = (present / [entry.looks for entry in self.entries]).sum(1) / present.sum(1)
        held_out = HeldOut(self.clean_ND[clean_N], self.weight_N[clean_N], damaged, present, weight_M)
        return Judge(self.geometry, held_out, self.rate, found)

    def entry(self, name: str) -> Entry:
        """One degradation's entry."""
        return self.entries[self.names.index(name)]

    def tokens_of(self, name: str) -> np.ndarray:
        """FDI tokens T,D of one degradation, float32."""
        return self.entry(name).tokens_TD

    def with_entry(self, entry: Entry) -> ReferenceBank:
        """A bank that knows one degradation more, or another version of one, and looks for it in all images."""
        others = tuple(e for e in self.entries if e.name != entry.name)
        kept = [k for k, e in enumerate(self.entries) if e.name != entry.name]
        rows = ~np.delete(self.mixed_MK, kept, axis=1).any(axis=1)  # mixtures with an entry that goes, go too
        mixed_MK = np.concatenate([self.mixed_MK[rows][:, kept], np.zeros((int(rows.sum()), 1), bool)], axis=1)
        return replace(
            self,
            entries=(*others, entry),
            mixed_MD=self.mixed_MD[rows],
            mixed_MK=mixed_MK,
            mixtures=self.mixtures and self.mixtures.keep(kept, added=1),
            whole_only=self.whole_only - {entry.name},
            calibrated=None,
        )

    def without(self, name: str) -> ReferenceBank:
        """A bank that doesn't know a degradation; its thresholds are found anew.

        Raises:
            KeyError: it doesn't know it anyway.
        """
        if name not in self.names:
            raise KeyError(name)
        kept = [k for k, e in enumerate(self.entries) if e.name != name]
        rows = ~self.mixed_MK[:, self.names.index(name)]
        return replace(
            self,
            entries=tuple(self.entries[k] for k in kept),
            mixed_MD=self.mixed_MD[rows],
            mixed_MK=self.mixed_MK[rows][:, kept],
            mixtures=self.mixtures and self.mixtures.keep(kept),
            whole_only=self.whole_only - {name},
            calibrated=None,
        )

    def with_entry_of(self, folder: Path) -> ReferenceBank:
        """A bank that knows an adapter's degradation as the adapter's folder does; itself, if that says nothing new.

        Raises:
            WeightsError: neither the bank nor the folder has what it takes to recognise it.
        """
        if folder.name in self.names and (folder / "fdi.safetensors").is_file():
            with safe_open(folder / "fdi.safetensors", "np") as file:
                known = np.array_equal(file.get_tensor("tokens"), self.tokens_of(folder.name))
                if known or not set(NEEDED) <= set(file.keys()):
                    return self
        return self.with_entry(Entry.load(folder))

    def save_fdi(self, name: str, folder: Path) -> None:
        """Write one degradation's ``fdi.safetensors``, which an adapter's folder carries; see :class:`Entry`."""
        self.entry(name).save(folder, self.content.mean_D, self.encoder_sha256)

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (names, thresholds) and ``bank.safetensors`` (held-out features in float16)."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = self._as_stored()
        full = {f"content.{key}": value for key, value in vars(kept.content).items()} | {"weight": kept.weight_N}
        half = {"clean": kept.clean_ND, "mixed": kept.mixed_MD}
        for entry in kept.entries:
            full |= {f"{entry.name}.tokens": entry.tokens_TD, f"{entry.name}.mean": entry.mean_D}
            full[f"{entry.name}.filter"] = entry.filter_D
            full |= entry.severities.arrays(f"{entry.name}.") if entry.severities else {}
            full |= {f"{entry.name}.looks": np.array([entry.looks])} if entry.looks > 1 else {}
            half[f"{entry.name}.held_out"] = entry.held_out_MD
        arrays = {key: np.ascontiguousarray(value, np.float32) for key, value in full.items()}
        arrays |= {key: as_half(value) for key, value in half.items()}
        arrays |= {"mixed_present": kept.mixed_MK.astype(np.uint8), "whole": kept.whole_N.astype(np.uint8)}
        arrays |= kept.mixtures.arrays() if kept.mixtures else {}
        # safetensors writes memory as it lies, whatever an array's strides: columns that were chosen would be mixed up.
        path = folder / "bank.safetensors"
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
        path.chmod(0o644)  # safetensors writes files that only their owner may read
        config = {
            "names": list(kept.names),
            "encoder_sha256": kept.encoder_sha256,
            "clean_false_positive_rate": kept.rate,
            "pairs": {entry.name: entry.pairs for entry in kept.entries},
            "explained_by_mean": {entry.name: entry.spread for entry in kept.entries},
            "whole_only": sorted(kept.whole_only),
            "thresholds": {key: asdict(getattr(kept, key).thresholds) for key in ("detail", "whole")},
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1, default=np.ndarray.tolist) + "\n")

    def _as_stored(self) -> ReferenceBank:
        """The bank as it will be read again: thresholds must come from the numbers that are stored."""
        entries = tuple(
            replace(
                e,
                held_out_MD=as_half(e.held_out_MD).astype(np.float64),
                mean_D=as_single(e.mean_D),
                filter_D=as_single(e.filter_D),
                severities=e.severities and Severities(*map(as_single, vars(e.severities).values())),
            )
            for e in self.entries
        )
        return replace(
            self,
            entries=entries,
            content=Content(**{key: as_single(value) for key, value in vars(self.content).items()}),
            clean_ND=as_half(self.clean_ND).astype(np.float64),
            mixed_MD=as_half(self.mixed_MD).astype(np.float64),
            weight_N=as_single(self.weight_N),
            mixtures=self.mixtures and Mixtures.among(self.mixtures.arrays()),
        )

    @classmethod
    def from_pretrained(cls, folder: Path, encoder_sha256: str | None = None) -> ReferenceBank:
        """Load a bank, checking that it was made with the given encoder.

        Raises:
            WeightsError: a file is missing, or the bank belongs to another encoder.
        """
        path = folder / "bank.safetensors"
        if not path.is_file():
            raise WeightsError(f"{path}: not found; a bank folder holds bank.safetensors and config.json")
        config = read_config(folder)
        if encoder_sha256 is not None:
            check_made_with(folder, config, encoder_sha256)
        a = load_file(path)
        if not {"mixed_present", "whole"} <= set(a):
            raise WeightsError(f"{path}: of another form than this release reads; build it again with `fdi bank build`")
        mixed_MK, whole_N = (a.pop(key).astype(bool) for key in ("mixed_present", "whole"))
        mixtures = Mixtures.among(a)
        tokens = {name: a.pop(f"{name}.tokens") for name in config["names"]}
        x = {key: value.astype(np.float64) for key, value in a.items()}
        entries = tuple(
            Entry(
                name,
                tokens[name],
                x[f"{name}.mean"],
                x[f"{name}.filter"],
                config["explained_by_mean"][name],
                config["pairs"][name],
                x[f"{name}.held_out"],
                Severities.among(x, f"{name}."),
                int(x.get(f"{name}.looks", [1])[0]),
            )
            for name in config["names"]
        )
        return cls(
            entries,
            Content(x["content.mean_D"], x["content.covariance_DD"], x["content.within_DD"]),
            x["clean"],
            x["weight"],
            whole_N,
            x["mixed"],
            mixed_MK,
            config["clean_false_positive_rate"],
            config["encoder_sha256"],
            frozenset(config["whole_only"]),
            (_thresholds(config["thresholds"]["detail"]), _thresholds(config["thresholds"]["whole"])),
            mixtures,
        )


def _thresholds(stored: Mapping[str, Any]) -> Thresholds:
    arrays: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Thresholds(**arrays)


def check_made_with(folder: Path, config: Mapping[str, Any], encoder_sha256: str) -> None:
    """Refuse a bank of another encoder.

    Args:
        folder: the bank's, for the message.
        config: that lies in it.
        encoder_sha256: of the encoder at hand.

    Raises:
        WeightsError: it belongs to another one.
    """
    if config["encoder_sha256"] != encoder_sha256:
        raise WeightsError(
            f"{folder}: made with encoder {config['encoder_sha256'][:12]}, found encoder {encoder_sha256[:12]}; point "
            "models.bank to a bank of this encoder (`fdi bank build` with its models.encoder), or models.encoder to "
            "the bank's own"
        )
