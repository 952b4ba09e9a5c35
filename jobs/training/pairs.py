"""Around the training of an adapter from somebody's own pairs: are they fit, what is their FDI, and what came of it.

Before: every pair is checked, bad ones are listed and left out, the FDI is found. After: is the new degradation
recognised and does it disturb the others, is the adapter better than doing nothing and than a classical method.
What takes an encoder or a base is done in a training worker's place: the driver's node may have no GPU.
Does NOT know the training itself, nor where the adapter goes (``adapter.py``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fdi_lib.core.classical import best_known
from fdi_lib.core.protocol import Sample, Tile, as_float, key_seed
from fdi_lib.core.separability import Confusion
from fdi_lib.core.views import to_rgb8
from fdi_lib.manifest import Pools, RestoreSettings, TrainManifest
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.base_files import fetch_base
from fdi_lib.models.entry import Entry
from fdi_lib.models.presets import ModelFolders, adapter_folders, compact_folder, encoder_files
from fdi_lib.models.restorer import Restorer
from fdi_lib.storage.pairs import PairRef
from fdi_lib.storage.store import Store
from fdi_lib.training.crops import Pair
from fdi_lib.training.measure import EvaluationSet, measure
from fdi_lib.training.own import confusion, entry_from_pairs
from fdi_lib.training.pair_checks import accepted, table
from fdi_lib.training.pairs import StoredPairs, split
from jobs.pool import cluster
from jobs.training.on_ray import on_a_worker
from jobs.training.pair_stream import PairStream, pair_reports
from jobs.training.plan import bank_folder

log = logging.getLogger(__name__)
REPORT = "pairs.tsv"
_FOR_FDI, _FOR_THRESHOLDS, _MEASURED, _TUNED = 512, 128, 64, 16  # pairs at most
_MEASURED_PX = 384  # side at most: the middle of a picture tells as much as a whole scan, much sooner
_SHOWN = ("n", "psnr_in", "psnr_out", "gain_db", "gain_db_classified", "gain_db_without_fidelity", "ssim_in",
          "ssim_out", "classical", "classical_gain_db", "found")  # fmt: skip


@dataclass(frozen=True)
class OwnPairs:
    """Pairs that were found fit, parted, what the bank will know of them, and what a recipe says of them."""

    learnt: StoredPairs
    held_out: StoredPairs
    entry: Entry
    left_out: int
    identity: list[str]


def checked(manifest: TrainManifest, refs: list[PairRef], bank: ReferenceBank) -> OwnPairs:
    """Check all pairs on the cluster, write the list of them, part them, and find the FDI of those that are learnt.

    Raises:
        ManifestError: too few are left; the list says why.
    """
    data = manifest.data
    assert data.kind != "clean", "the manifest's own check"
    stream = PairStream(data.uri, data.kind, data.storage, None, smallest_px=manifest.crop_px, seed=manifest.seed)
    with cluster(Pools(), manifest.wait_s, restoring=False):
        reports = pair_reports(stream, Pools())
    where = manifest.checkpoint.uri
    assert where is not None, "made absolute before"
    store = Store.open(where, manifest.storage)
    store.replace(REPORT, table(reports).encode())
    left_out = [report for report in reports if not report.ok]
    for report in left_out:
        log.warning("left out: %s: %s", report.name, "; ".join(report.reasons))
    log.info("%d pairs, %d left out; all are listed in %s", len(reports), len(left_out), store.uri(REPORT))
    kept = accepted(refs, reports, data.uri)
    sides = split(kept, data.validation_fraction, manifest.seed)
    learnt, held_out = (StoredPairs(side, data.uri, data.storage, data.cache_mib) for side in sides)
    entry = on_a_worker(manifest, _entry, manifest, bank, learnt, held_out)
    log.info("FDI of %d pairs; their mean explains %.0f %% of the differences", entry.pairs, 100 * entry.spread)
    identity = [f"{report.name} {report.degraded_hash} {report.clean_hash}" for report in reports if report.ok]
    return OwnPairs(learnt, held_out, entry, len(left_out), identity)


def _entry(manifest: TrainManifest, bank: ReferenceBank, learnt: StoredPairs, held_out: StoredPairs) -> Entry:
    """What the bank will know of the pairs."""
    assert manifest.task is not None, "the manifest's own check"
    encoder = encoder_files(manifest.models.encoder).load()
    sides = (pair for _, pair in learnt.whole(_FOR_FDI)), (pair for _, pair in held_out.whole(_FOR_THRESHOLDS))
    return entry_from_pairs(manifest.task, encoder, bank, *sides)


def calibrated(bank: ReferenceBank, entry: Entry) -> dict[str, Any]:
    """Calibrate the bank with the new entry; print what each degradation was and is taken for.

    Returns:
        ``accuracy_before`` and ``accuracy_after`` of the others (None where there is none), ``recognised``: of the new
        one; ``monochrome``: the same of references in grey, where the bank has some.
    """
    summary = _calibrated(bank, entry, monochrome=False)
    return summary | ({"monochrome": _calibrated(bank, entry, monochrome=True)} if bank.monochrome else {})


def _calibrated(bank: ReferenceBank, entry: Entry, monochrome: bool) -> dict[str, Any]:
    after, where = confusion(bank.with_entry(entry), monochrome), ", in grey" if monochrome else ""
    others = [name for name in bank.detail.geometry.names if name != entry.name]
    recognised = round(after.accuracy([entry.name]), 4)
    summary: dict[str, Any] = {"accuracy_before": None, "accuracy_after": None, "recognised": recognised}
    if others:
        before = confusion(bank, monochrome)
        _print(before, f"Held-out references before{where}: what each degradation is taken for, %")
        summary |= {
            "accuracy_before": round(before.accuracy(others), 4),
            "accuracy_after": round(after.accuracy(others), 4),
        }
    _print(after, f"With {entry.name}{where}")
    return summary


def measured(manifest: TrainManifest, pairs: OwnPairs, folder: Path) -> dict[str, Any]:
    """Measure a finished adapter folder on the held-out pairs, beside doing nothing and the best classical method.

    Returns:
        A row of ``metrics.json``, as ``fdi evaluate`` writes it.
    """
    task, files = pairs.entry.name, {path.name: path.read_bytes() for path in folder.iterdir()}
    row = on_a_worker(manifest, _measured, manifest, pairs, files)
    shown = Table(*(column.replace("_db", " dB").replace("_", " ") for column in _SHOWN))
    shown.title = f"{task}: held-out pairs, restored against clean (8 bit)"
    shown.add_row(*(f"{row[c]:.2f}" if isinstance(row[c], float) else str(row[c]) for c in _SHOWN))
    _console().print(shown)
    if row["gain_db"] <= 0:
        log.warning("%s: restoring harms (%.2f dB); train longer, or on more pairs", task, row["gain_db"])
    return row


def _measured(manifest: TrainManifest, pairs: OwnPairs, files: dict[str, bytes]) -> dict[str, Any]:
    """The figures of an adapter, given by its files: the worker may be on another node than its folder."""
    with TemporaryDirectory(prefix="fdi-measured-") as parent:
        folder = Path(parent, pairs.entry.name)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return _figures(manifest, pairs, folder)


def _figures(manifest: TrainManifest, pairs: OwnPairs, folder: Path) -> dict[str, Any]:
    task, folders = pairs.entry.name, folders_with(manifest, folder)
    samples = [_sample(task, name, pair) for name, pair in pairs.held_out.whole(_MEASURED)]
    given: dict[str, Any] = {**vars(folders), "batch": min(8, len(samples))}
    largest_px = max(side for sample in samples for side in sample.pixels.shape[:2])
    tile_px = -(-largest_px // 64) * 64  # every picture is one tile; a larger one would be padding
    restorer, bare = (
        Restorer(**given, restore=RestoreSettings(fidelity=fidelity, tile_px=tile_px, overlap_px=0))
        for fidelity in (True, False)
    )
    method = best_known([(as_float(_middle(d)), as_float(_middle(c))) for _, (d, c) in pairs.learnt.whole(_TUNED)])
    result, _ = measure(EvaluationSet({task: samples}), restorer, bare, "progressive", 0, {task: method})
    row: dict[str, Any] = result["degradations"][task]
    return row


def folders_with(manifest: TrainManifest, adapter: Path | None) -> ModelFolders:
    """The models that the adapter was trained against; the preset's adapters beside it, where those are the preset's.

    Args:
        manifest: of the training.
        adapter: folder of the new adapter, if there is one yet; its name is the adapter's.
    """
    m, preset = manifest.models, compact_folder()
    base = fetch_base(m.base.uri, m.base.revision, m.base.sha256) if m.base else preset / "base"
    beside = {} if m.encoder or m.base else adapter_folders(preset / "adapters")
    bank, adapters = bank_folder(manifest), beside | ({adapter.name: adapter} if adapter else {})
    return ModelFolders(encoder_files(m.encoder).folder, base, bank, adapters)


def _sample(task: str, name: str, pair: Pair) -> Sample:
    degraded, clean = (_middle(side) for side in pair)
    return Sample((task,), Tile(name, 0, clean), degraded, key_seed(0, name))


def _middle(pixels: np.ndarray) -> np.ndarray:
    """The middle of a picture, uint8 HW3, at most ``_MEASURED_PX`` a side; from the same place on both sides."""
    y, x = (max(0, (side - _MEASURED_PX) // 16 * 8) for side in pixels.shape[:2])
    return np.ascontiguousarray(to_rgb8(pixels[y : y + _MEASURED_PX, x : x + _MEASURED_PX]))


def _print(found: Confusion, title: str) -> None:
    shown = Table("", *found.columns, title=title)
    for name, row_C in zip(found.rows, found.count_RC, strict=True):
        shown.add_row(name, *(f"{100 * n / max(row_C.sum(), 1):.0f}" if n else "" for n in row_C))
    _console().print(shown)


def _console() -> Console:
    return Console(stderr=True, width=160)
