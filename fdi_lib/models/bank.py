"""The reference bank: one constant FDI per degradation, what clean content looks like, and calibrated thresholds.

It is data made by :mod:`fdi_lib.training.bank` and read by the classifier and the adapters. It keeps the features of
its held-out references, so that it can be calibrated anew: at another rate, or with one more degradation.
Suffixes: K degradations, T tokens, D feature numbers, N and M held-out clean and damaged images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import safe_open

from fdi_lib.core.calibration import HeldOut
from fdi_lib.core.judge import Judge
from fdi_lib.core.namer import Namer
from fdi_lib.core.similarity import Geometry, Thresholds, whitening
from fdi_lib.models import bank_files
from fdi_lib.models.entry import NEEDED, Content, Entry, as_single, rounded

Extent = Literal["detail", "whole"]


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
        namer: what names the second degradation of a mixture; None where there is no such thing.
        monochrome: the bank that monochrome images, seen in grey, are compared with; None compares them with this one.
            Adapters take their FDI from this one.
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
    namer: Namer | None = None
    monochrome: ReferenceBank | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Degradations in the bank's order."""
        return tuple(entry.name for entry in self.entries)

    def judge(self, extent: Extent, monochrome: bool = False) -> Judge:
        """The one that judges images of an extent, in colour or not."""
        bank = self.monochrome if monochrome and self.monochrome else self
        return bank.detail if extent == "detail" else bank.whole

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
        return Geometry(self.names, self.content.mean_D, white_DD, fdi_KD, filter_KD, further, self.namer)

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
            namer=self.namer and self.namer.keep(kept, added=1),
            whole_only=self.whole_only - {entry.name},
            calibrated=None,
            monochrome=self.monochrome and self.monochrome._with_grey(entry),
        )

    def _with_grey(self, entry: Entry) -> ReferenceBank:
        """Of a monochrome part: with what the entry knows in grey; else with what is known here; else with itself."""
        if entry.monochrome:
            return self.with_entry(entry.monochrome)
        return self if entry.name in self.names else self.with_entry(entry)

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
            namer=self.namer and self.namer.keep(kept),
            whole_only=self.whole_only - {name},
            calibrated=None,
            monochrome=self.monochrome and self.monochrome.without(name),
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
        """Write ``config.json`` (names, thresholds), ``bank.safetensors`` (arrays), and both in ``monochrome/``."""
        if self.monochrome:  # first: the other says that it is there
            self.monochrome.save_pretrained(folder / bank_files.MONOCHROME)
        bank_files.write(self._as_stored(), folder)

    def _as_stored(self) -> ReferenceBank:
        """The bank as it will be read again: thresholds must come from the numbers that are stored."""
        return replace(
            self,
            entries=tuple(entry.as_stored() for entry in self.entries),
            content=Content(**{key: as_single(value) for key, value in vars(self.content).items()}),
            clean_ND=rounded(self.clean_ND),
            mixed_MD=rounded(self.mixed_MD),
            weight_N=as_single(self.weight_N),
            namer=self.namer and Namer.among(self.namer.arrays()),
        )

    @classmethod
    def from_pretrained(cls, folder: Path, encoder_sha256: str | None = None) -> ReferenceBank:
        """Load a bank, checking that it was made with the given encoder.

        Raises:
            WeightsError: a file is missing, or the bank belongs to another encoder.
        """
        fields, inner = bank_files.read(folder, encoder_sha256), folder / bank_files.MONOCHROME
        if bank_files.has_monochrome(folder):
            fields["monochrome"] = cls.from_pretrained(inner, fields["encoder_sha256"])
        return cls(**fields)
