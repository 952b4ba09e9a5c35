"""``fdi bank build``: reference pairs to a reference bank."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fdi_lib.core.moments import PairMoments
from fdi_lib.errors import ManifestError, RunConflictError
from fdi_lib.manifest import BankManifest, StorageSettings
from fdi_lib.manifest.kinds import PairSettings
from fdi_lib.manifest.locations import on_this_machine
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoders import EncoderFiles, load_encoder
from fdi_lib.models.presets import encoder_files
from fdi_lib.storage.store import Store
from fdi_lib.training.bank import bank_from_moments
from fdi_lib.training.pair_checks import PairReport
from jobs.bank_show import holds
from jobs.pool import cluster
from jobs.training.bank_made import made_bank
from jobs.training.pair_stream import PairStream, pair_moments
from jobs.training.storage import local_folder, publish

log = logging.getLogger(__name__)
_WAIT_S = 1800.0  # for nodes that a cluster could still add
_FEWEST = 4  # fit pairs, learnt (for each prototype) as well as held out


def build(manifest: BankManifest) -> dict[str, Any]:
    """Build a bank and write its folder.

    Raises:
        ManifestError: pictures or pairs are missing, or banks to merge don't belong together.
        RunConflictError, StorageRefusedError: the output is something else's, or can't be written.
        WeightsError: the encoder, or a bank to merge, is missing or not the one that it should be.
    """
    encoder, output = encoder_files(manifest.models.encoder), local_folder(manifest.output)
    _check_free(output)
    merged = {uri: on_this_machine(uri, "merge") for uri in manifest.merge}
    others = {uri: ReferenceBank.from_pretrained(folder, encoder.sha256) for uri, folder in merged.items()}
    if manifest.synthetic:
        bank, summary = made_bank(manifest, manifest.synthetic, encoder.load(), encoder.sha256)
    elif manifest.pairs:
        bank, summary = _from_pairs(manifest, encoder)
    else:
        bank, summary = others.pop(manifest.merge[0]), {}
    for uri, other in others.items():
        if other.monochrome and not bank.monochrome:
            log.warning("%s: its references in grey are left out, since the bank that it joins has none: grey scans "
                        "will be compared with references in colour", uri)  # fmt: skip
        bank = _joined(bank, other, uri)
    with TemporaryDirectory(prefix="fdi-bank-") as parent:
        folder = Path(parent, "bank")
        bank.save_pretrained(folder)
        config = (folder / "config.json").read_bytes()
        (folder / "config.json").unlink()
        publish(folder, str(output), StorageSettings(), {"config.json": config})
    return {"output": manifest.output, **summary, **holds(ReferenceBank.from_pretrained(output))}


def _check_free(output: Path) -> None:
    """Refuse an output that can't be written, or is something else's; an older bank is replaced.

    Raises:
        RunConflictError: an adapter or a model is there.
        StorageRefusedError: it can't be written.
    """
    store = Store.open(str(output), StorageSettings())
    store.check(for_writing=True)
    if store.exists("config.json") and b'"names"' not in store.read("config.json"):
        raise RunConflictError(f"{store.uri('config.json')} is there, and no bank's; name another output")


def _joined(bank: ReferenceBank, other: ReferenceBank, uri: str) -> ReferenceBank:
    """The bank with another one's entries; clean content, whole pictures too, stays the first one's."""
    twice = set(bank.names) & set(other.names)
    if twice:
        raise ManifestError(
            f"{sorted(twice)[0]} is in more than one bank", key="merge", value=uri, remedy="leave one of them out"
        )
    for entry in other.entries:
        in_grey = other.monochrome.entry(entry.name) if other.monochrome else entry.monochrome
        bank = bank.with_entry(replace(entry, monochrome=in_grey))
    whole_only = bank.whole_only | other.whole_only
    return replace(
        bank, whole_only=whole_only, monochrome=bank.monochrome and replace(bank.monochrome, whole_only=whole_only)
    )


def _from_pairs(manifest: BankManifest, encoder: EncoderFiles) -> tuple[ReferenceBank, dict[str, Any]]:
    """Build from moments of any number of stored pairs, on Ray. Which are held out follows from their clean sides."""
    held, learnt, left_out = {}, {}, 0
    with cluster(manifest.pools, _WAIT_S, restoring=False):
        for pairs in manifest.pairs:
            learnt[pairs.task], held[pairs.task], unfit = _moments(manifest, pairs, encoder)
            left_out += unfit
    counts = {"references": sum(m.count for m in learnt.values()), "held_out": sum(m.count for m in held.values())}
    rate, prototypes = manifest.clean_false_positive_rate, manifest.prototypes
    bank = bank_from_moments(learnt, held, rate, encoder.sha256, prototypes)
    return bank, counts | {"left_out": left_out}


def _moments(
    manifest: BankManifest, pairs: PairSettings, encoder: EncoderFiles
) -> tuple[PairMoments, PairMoments, int]:
    """Moments of the fit pairs learnt from and held out, and how many were left out; the log names each."""
    seed, share = manifest.seed, manifest.held_out_fraction
    stream = PairStream(pairs.uri, pairs.kind, pairs.storage, encoder.view_spec, seed=seed, held_out=share)
    unfit: list[str] = []

    def note(reports: list[PairReport]) -> None:
        for report in reports:
            if not report.ok:
                unfit.append(f"{report.name}: {'; '.join(report.reasons)}")
                log.warning("%s: left out: %s", pairs.task, unfit[-1])

    found = pair_moments(stream, partial(load_encoder, encoder.origin), manifest.pools, note)
    learnt = _enough(found.learnt, "to learn from", _FEWEST * manifest.prototypes, pairs, unfit)
    return learnt, _enough(found.held_out, "held out", _FEWEST, pairs, unfit), len(unfit)


def _enough(found: PairMoments | None, what: str, fewest: int, pairs: PairSettings, unfit: list[str]) -> PairMoments:
    count = found.count if found else 0
    if found is None or count < fewest:
        first = f", the first: {unfit[0]}" if unfit else ""
        raise ManifestError(
            f"{pairs.task}: {count} fit pairs {what}, at least {fewest} are needed ({len(unfit)} unfit{first})",
            key="pairs",
            value=pairs.uri,
            remedy="add or mend pairs, or change held_out_fraction or prototypes",
        )
    return found


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["bank", "build", *sys.argv[1:]]))
