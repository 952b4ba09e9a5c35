"""``fdi demo``: make a small degraded archive from photographs in scikit-image, restore it, say what happened.

The restoration is the ordinary job with ``manifests/restore/demo.yaml``, read from the source tree beside this package.
Its figures show, but prove nothing: ``fdi evaluate`` is for that. Running it again resumes, and finds nothing to do.
"""

from __future__ import annotations

import csv
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from rich.console import Console
from rich.table import Table

from fdi_lib.core.decision import parse_route
from fdi_lib.core.metrics import psnr, ssim
from fdi_lib.manifest import RestoreManifest, StorageSettings, load_manifest
from fdi_lib.records import Status
from fdi_lib.storage import ledger
from fdi_lib.storage.store import Store
from jobs.demo_archive import Amounts, Truth, make_archive

MANIFEST = Path(__file__).parents[1] / "manifests" / "restore" / "demo.yaml"
_COLUMNS = ["image_id", "status", "reason", "verdict", "route", "output_uri"]


def run(directory: str) -> dict[str, Any]:
    """Make the archive, restore it, compare with the truth and print.

    Returns:
        The summary of the restoration, and ``applied_found``, ``degradations``, ``stage_seconds``, ``report``.
    """
    from jobs import restore  # Ray and torch are imported only when needed

    return demonstrate(directory, restore.run)


def demonstrate(
    directory: str,
    restore: Callable[[RestoreManifest], dict[str, Any]],
    amounts: Amounts = Amounts(),  # noqa: B008
) -> dict[str, Any]:
    """Do the work of :func:`run` with the restoration and the amounts given."""
    root = Path(directory).resolve()
    Store.open(str(root), StorageSettings()).check(for_writing=True)
    clock = [time.monotonic()]
    truths = make_archive(root, amounts)
    clock.append(time.monotonic())
    manifest = load_manifest(
        str(MANIFEST), [f"source.uri={root / 'archive'}", f"output.uri={root / 'restored'}"], "restore"
    )
    assert isinstance(manifest, RestoreManifest)
    summary = restore(manifest)
    clock.append(time.monotonic())
    store = Store.open(manifest.output.uri, manifest.output.storage)
    rows = {row["image_id"]: row for row in ledger.load_effective(store, _COLUMNS).to_pylist()}
    found = confusion(truths, rows)
    scores = compare(root, truths, rows)
    clock.append(time.monotonic())
    write_table(root / "found.tsv", truths, rows)
    stages = dict(zip(("making the archive", "the job", "comparing"), np.diff(clock).round(2).tolist(), strict=True))
    result = {
        **summary,
        "applied_found": {a: dict(sorted(f.items())) for a, f in found.items()},
        "degradations": scores,
        "stage_seconds": {**stages, **summary.get("stage_seconds", {})},
        "report": store.uri("report/index.html"),
    }
    _print(result)
    return result


def label(row: Mapping[str, Any]) -> str:
    """What was found in an image: the set of adapters joined by ``+``, or its verdict, or else its status."""
    return "+".join(sorted(parse_route(row["route"]))) or row["verdict"] or row["status"]


def confusion(truths: Sequence[Truth], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Count what was found by what was applied; a missing row counts as ``(no row)``."""
    counts: dict[str, Counter[str]] = {}
    for truth in truths:
        applied = "broken" if truth.broken else "+".join(sorted(truth.names)) or "clean"
        row = rows.get(truth.image_id)
        counts.setdefault(applied, Counter())[label(row) if row else "(no row)"] += 1
    return dict(sorted(counts.items()))


def compare(root: Path, truths: Sequence[Truth], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """PSNR and SSIM before and after by what was applied; an image without an output stays as it was.

    Returns:
        For each combination applied ``{"n", "psnr_in", "psnr_out", "ssim_in", "ssim_out"}``.
    """
    scores: dict[str, list[tuple[float, float, float, float]]] = {}
    for truth in truths:
        if not truth.names:
            continue
        reference = _decode((root / truth.reference).read_bytes())
        before = _decode(_member(root, truth.image_id))
        uri = rows.get(truth.image_id, {}).get("output_uri", "")
        after = _decode(Path(uri).read_bytes()) if uri else before
        figures = (psnr(before, reference), psnr(after, reference), ssim(before, reference), ssim(after, reference))
        scores.setdefault(">".join(truth.names), []).append(figures)
    names = ("psnr_in", "psnr_out", "ssim_in", "ssim_out")
    return {
        applied: {"n": len(of), **dict(zip(names, np.mean(of, axis=0).round(4).tolist(), strict=True))}
        for applied, of in scores.items()
    }


def write_table(path: Path, truths: Sequence[Truth], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write truth and finding of every image side by side."""
    with path.open("w", newline="") as out:
        writer = csv.writer(out, delimiter="\t", lineterminator="\n")
        writer.writerow(["image_id", "applied", "broken", "status", "reason", "found"])
        for truth in truths:
            row = rows.get(truth.image_id, {"status": "", "reason": "", "route": "", "verdict": "(no row)"})
            writer.writerow([truth.image_id, truth.applied, truth.broken, row["status"], row["reason"], label(row)])


def _member(root: Path, image_id: str) -> bytes:
    shard, _, name = image_id.partition("/")
    with tarfile.open(root / "archive" / shard) as tar:
        member = tar.extractfile(name)
        assert member is not None, image_id
        return member.read()


def _decode(data: bytes) -> np.ndarray:
    """Decode to float32 HW or HW3 in [0, 1], 8 or 16 bit."""
    pixels = pyvips.Image.new_from_buffer(data, "", fail_on="warning").numpy()
    return np.asarray(pixels, np.float32) / np.iinfo(pixels.dtype).max


def _print(result: Mapping[str, Any]) -> None:
    """Print on standard output: counts, confusion, gains, seconds, and where the report is."""
    console = Console()
    statuses = ", ".join(f"{result.get(s.value, 0)} {s.value}" for s in Status)
    again = f" ({result['already_done']} done by an earlier run)" if result.get("already_done") else ""
    console.print(f"[bold]{result.get('images', 0)} images[/bold]{again}: {statuses}")

    # A column for each combination would be too narrow for its name on a terminal of 80 columns.
    table = Table("applied", "found (images)", title="What was applied, and what was found")
    for applied, found in result["applied_found"].items():
        most_first = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        table.add_row(applied, ", ".join(f"{name} {count}" for name, count in most_first))
    console.print(table)

    table = Table(
        "applied", "n", "PSNR before", "after", "gain dB", "SSIM before", "after", title="Against the originals"
    )
    for applied, row in result["degradations"].items():
        gain = row["psnr_out"] - row["psnr_in"]
        table.add_row(
            applied, str(row["n"]), f"{row['psnr_in']:.2f}", f"{row['psnr_out']:.2f}", f"{gain:+.2f}",
            f"{row['ssim_in']:.3f}", f"{row['ssim_out']:.3f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        "seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["stage_seconds"].items())
    )
    console.print(f"report: {result['report']}", soft_wrap=True)
