"""``fdi bench``: what the job costs on top of its models, how it routes and grows, and what its control plane bears.

Runs of job and comparison alternate on the same images, so that a machine's moods hit all alike; medians of ratios
count. Each section has a file of its own. Does NOT judge the figures.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import BenchManifest, Limits, OutputSettings, RestoreManifest, SourceSettings
from fdi_lib.manifest.locations import is_inside, local_path
from fdi_lib.storage.run import versions
from jobs.benches import control, full, growth, routing
from jobs.benches.full_shapes import FULL, Shapes
from jobs.benches.job import RATIOS, median, with_fake_device, with_models
from jobs.demo_archive import Amounts, make_archive
from jobs.parts import Parts

# Where the manifest names no source: 55 images with the eight degradations that are looked for in small ones.
_RECOGNISED = ("noise", "jpeg", "haze", "rain", "snow", "low_light", "scratch", "low_resolution")
AMOUNTS = Amounts(single=5, mixture=2, clean=6, singles=_RECOGNISED)


def run(manifest: BenchManifest, parts: Parts | None = None, shapes: Shapes = FULL) -> dict[str, Any]:
    """Measure, print tables, write ``bench.json`` and ``table.txt``; return what ``bench.json`` holds.

    Args:
        manifest: what to measure.
        parts: how the job's models are loaded.
        shapes: of the models of section ``full_size``.

    Raises:
        ManifestError: ``full_size`` without a GPU, an unusable output, or too few images.
        WeightsError: a checkpoint is missing or altered.
    """
    parts, started = parts or Parts(), time.monotonic()
    if "full_size" in manifest.sections:
        full.check(shapes)
    folder = _output(manifest)
    compared = {"job", "plain"} & set(manifest.sections)
    if compared:
        parts.describe(manifest.models)
    machine = _machine()
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "job_over_bare": None, "job_over_plain": None, "job_over_plain_with_models": None,
        "routing": [], "growth": [], "control_plane": {"images_per_s": None, "driver_mib": None},
        "full_size": [], "device": None,
        "machine": machine, "versions": versions(),
    }  # fmt: skip
    if compared:
        result |= _compared(manifest, parts, folder, machine["cores"])
    if "routing" in manifest.sections:
        result["routing"] = routing.measure()
    if "growth" in manifest.sections:
        result["growth"] = growth.measure(folder)
    if "control_plane" in manifest.sections:
        result["control_plane"] = control.measure(manifest.control_plane_images, folder)
    if "full_size" in manifest.sections:
        result["full_size"], result["device"] = full.measure(manifest.restore, folder, shapes)
    result |= {"seconds": round(time.monotonic() - started, 1), "output": str(folder)}
    (folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "table.txt").write_text(_print(result))
    return result


def _compared(manifest: BenchManifest, parts: Parts, folder: Path, cores: int) -> dict[str, Any]:
    """The sections ``job`` and ``plain``: with models, then with a fake device."""
    if manifest.source is None:
        make_archive(folder / "demo", AMOUNTS)
    source = manifest.source or SourceSettings(uri=str(folder / "demo" / "archive"))
    settings = RestoreManifest(
        kind="restore", source=source, output=OutputSettings(uri=str(folder / "runs")), models=manifest.models,
        restore=manifest.restore, pools=manifest.pools, limits=Limits(max_failed_fraction=1.0),
    )  # fmt: skip
    plain = "plain" in manifest.sections
    found = with_models(settings, parts, folder, manifest.repeats, plain, cores)
    fake = (
        with_fake_device(settings, folder, manifest.repeats, plain, manifest.fake_image_px)
        if manifest.fake_device
        else []
    )
    runs = found["runs"]
    ratios = {name: median(runs, name) for name in RATIOS}
    ratios |= {f"fake_device_{name}": median(fake, name) if fake else None for name in RATIOS[:2]}  # type: ignore[misc]
    return found | {
        "job_over_bare": ratios if "job" in manifest.sections else None,
        "job_over_plain": median(fake, "over_plain") if plain and fake else None,
        "job_over_plain_with_models": median(runs, "over_plain") if plain else None,
        "fake_runs": fake,
        "settings": settings.model_dump(mode="json"),
    }


def _output(manifest: BenchManifest) -> Path:
    path = local_path(manifest.output)
    if path is None:
        raise ManifestError("not on this machine", key="output", value=manifest.output, remedy="use a local folder")
    if manifest.source and is_inside(path, manifest.source.uri):
        raise ManifestError("lies inside source.uri", key="output", value=path, remedy="use a folder beside it")
    return Path(path)


def _machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was before."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _print(result: dict[str, Any]) -> str:
    """Print the tables on standard output and return them as text."""
    console = Console(record=True, width=110)
    for title, key in (("Job with models", "runs"), ("Job with a fake device", "fake_runs")):
        if result.get(key):
            table = Table("", "median", "lowest", "highest", title=title)
            for name in result[key][0]:
                values = [run[name] for run in result[key]]
                table.add_row(
                    name, *(f"{value:.3f}" for value in (statistics.median(values), min(values), max(values)))
                )
            console.print(table)
    for title, key in (("Routing", "routing"), ("Growth", "growth")):
        if result[key]:
            table = Table(*result[key][0], title=title)
            for row in result[key]:
                table.add_row(*map(str, row.values()))
            console.print(table)
    for title, (head, *lines) in full.tables(result["full_size"]).items():
        if lines:
            table = Table(*head, title=title)
            for line in lines:
                table.add_row(*line)
            console.print(table)
    parts = ["bare", "machine", "versions", *(["device"] if result["device"] else [])]
    parts += ["control_plane"] * (result["control_plane"]["images_per_s"] is not None)
    for part in parts:
        if part in result:
            console.print(f"{part}: " + ", ".join(f"{key} {value}" for key, value in result[part].items()))
    return console.export_text()


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["bench", *sys.argv[1:]]))
