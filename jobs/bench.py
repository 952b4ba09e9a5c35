"""``fdi bench``: what the job costs on top of its models, as ratios to a bare loop and to a plain Ray Data chain.

Runs of each alternate on the same images, so that a machine's moods hit all alike; the median of the ratios counts.
``bench_plain.py`` holds what the job is compared with. Does NOT judge the figures.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from ray.data import DataContext
from rich.console import Console
from rich.table import Table

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import BenchManifest, Limits, OutputSettings, RestoreManifest, SourceSettings
from fdi_lib.manifest.locations import is_inside, local_path
from fdi_lib.storage.ledger import FOLDER
from fdi_lib.storage.run import versions
from jobs import restore
from jobs.bench_plain import STAGES, Finished, Loop, bare_loop, plain_way
from jobs.demo_archive import Amounts, make_archive
from jobs.parts import Parts, threads
from jobs.pool import cluster

MEASURED = ("job", "plain")  # sections of this release
AMOUNTS = Amounts(single=6, mixture=3, clean=6)  # 47 images, where the manifest names no source
_PROBED = 8  # images that tell which number of threads is faster
_RATIOS = ("steady", "with_writes", "with_cold_start")


def run(manifest: BenchManifest, parts: Parts | None = None) -> dict[str, Any]:
    """Measure, print tables, write ``bench.json`` and ``table.txt``; return what ``bench.json`` holds.

    Raises:
        ManifestError: a section that this release doesn't measure, an unusable output, or too few images.
        WeightsError: a checkpoint is missing or altered.
    """
    parts, started = parts or Parts(), time.monotonic()
    folder = _output(manifest)
    parts.describe(manifest.models)
    machine = _machine()
    folder.mkdir(parents=True, exist_ok=True)
    if manifest.source is None:
        make_archive(folder / "demo", AMOUNTS)
    source = manifest.source or SourceSettings(uri=str(folder / "demo" / "archive"))
    settings = RestoreManifest(
        kind="restore", source=source, output=OutputSettings(uri=str(folder / "runs")), models=manifest.models,
        restore=manifest.restore, pools=manifest.pools, limits=Limits(max_failed_fraction=1.0),
    )  # fmt: skip
    clock = time.perf_counter()
    loop = _loop(settings, parts, folder)
    load_s = time.perf_counter() - clock
    bare_threads = _fastest(loop, machine["cores"])
    runs = [_measure(settings, parts, loop, load_s, "plain" in manifest.sections) for _ in range(manifest.repeats)]

    def median(name: str) -> float:
        return round(statistics.median(run[name] for run in runs), 3)

    result = {
        "job_over_bare": {n: median(n) for n in _RATIOS} | {"fake_device_steady": None}
        if "job" in manifest.sections else None,
        "job_over_plain": median("over_plain") if "plain" in manifest.sections else None,
        "routing": [],  # not measured by this release, like the next
        "growth": [],
        "control_plane": {"images_per_s": None, "driver_mib": None},
        "machine": machine,
        "versions": versions(),
        "bare": {"threads": bare_threads, "load_s": round(load_s, 2)},
        "runs": runs,
        "settings": settings.model_dump(mode="json"),
        "seconds": round(time.monotonic() - started, 1),
        "output": str(folder),
    }  # fmt: skip
    (folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "table.txt").write_text(_print(result))
    return result


def _output(manifest: BenchManifest) -> Path:
    missing = [section for section in manifest.sections if section not in MEASURED]
    if missing:
        remedy = f"use sections: [{', '.join(MEASURED)}], or one of them"
        raise ManifestError(f"this release does not measure {', '.join(missing)}", key="sections", remedy=remedy)
    path = local_path(manifest.output)
    if path is None:
        raise ManifestError("not on this machine", key="output", value=manifest.output, remedy="use a local folder")
    if manifest.source and is_inside(path, manifest.source.uri):
        raise ManifestError("lies inside source.uri", key="output", value=path, remedy="use a folder beside it")
    return Path(path)


def _loop(settings: RestoreManifest, parts: Parts, folder: Path) -> Loop:
    spec = parts.view_spec(settings.models)
    return Loop(settings, parts.classifier(settings), parts.restorer(settings), spec, folder)


def _fastest(loop: Loop, cores: int) -> int:
    """Threads for the bare loop: those of a restore actor or all cores, whichever is faster on the first images."""

    def probe(count: int) -> float:
        torch.set_num_threads(count)
        with _scratch(loop) as (again, _):
            bare_loop(again, most=_PROBED)
            return again.seconds()

    probe(cores)  # the first pass loads adapters and warms up
    best = min({threads(loop.manifest.pools.restore.cpus), cores}, key=probe)
    torch.set_num_threads(best)
    return best


@contextmanager
def _scratch(loop: Loop) -> Iterator[tuple[Loop, Path]]:
    """A fresh loop with the same models, and the temporary folder that it writes to."""
    with tempfile.TemporaryDirectory(dir=loop.folder, prefix="run-") as name:
        folder = Path(name)
        (folder / "bare").mkdir()
        yield Loop(loop.manifest, loop.classifier, loop.restorer, loop.spec, folder / "bare"), folder


def _measure(settings: RestoreManifest, parts: Parts, models: Loop, load_s: float, plain: bool) -> dict[str, Any]:
    """One run of each, in turn; ratios above 1 mean that the job is faster."""
    with _scratch(models) as (bare, folder):
        bare_loop(bare)
        output = settings.output.model_copy(update={"uri": str(folder / "job")})
        started = time.perf_counter()
        summary = restore.run(settings.model_copy(update={"output": output}), parts)
        job_s = time.perf_counter() - started
        finished, rows = _ledger(folder / "job")
        window_s, ids = steady(finished, settings.source.uri)
        result = {
            "steady": bare.seconds(STAGES[:-1], ids) / window_s,
            "with_writes": bare.seconds(ids=ids) / window_s,
            "with_cold_start": (load_s + bare.seconds()) / job_s,
            "images": len(rows),
            "images_in_steady_state": len(ids),
            "routes": len({row["route"] for row in rows.values()} - {""}),
            "decided_otherwise": sum(bare.compositions[i] != row["composition"] for i, row in rows.items()),
            **{f"bare_{stage}_s": bare.seconds([stage]) for stage in STAGES},
            "job_s": job_s,
            "job_loads": summary["adapter_loads"],
        }
        return result | (_plain(settings, parts, bare, folder / "plain", result["with_writes"]) if plain else {})


def _plain(settings: RestoreManifest, parts: Parts, bare: Loop, folder: Path, job_rate: float) -> dict[str, Any]:
    """The plain way's figures; ``job_rate`` is the job's speed over a bare loop's."""
    folder.mkdir()
    restore_pool = settings.pools.restore.model_copy(update={"resident_adapters": 1})
    pools = settings.pools.model_copy(update={"restore": restore_pool})
    single = settings.model_copy(update={"pools": pools})
    context = DataContext()  # Ray Data's own defaults, not the job's
    context.enable_progress_bars = context.print_on_execution_start = False
    clock = time.perf_counter()
    with cluster(pools, settings.limits.wait_s) as actors, DataContext.current(context):
        finished, loads = plain_way(single, partial(_loop, single, parts, folder), actors)
    plain_s = time.perf_counter() - clock
    window_s, ids = steady(finished, settings.source.uri)
    # The two windows hold other images: what a bare loop takes for them makes the speeds comparable.
    return {"over_plain": job_rate / (bare.seconds(ids=ids) / window_s), "plain_s": plain_s, "plain_loads": loads}


def _ledger(output: Path) -> tuple[list[Finished], dict[str, dict[str, str]]]:
    """When each unit was committed, by the time of its ledger part; and the rows of all images."""
    finished: list[Finished] = []
    found: dict[str, dict[str, str]] = {}
    for path in (output / FOLDER).glob("*.parquet"):
        rows = pq.read_table(path, columns=["image_id", "route", "composition", "worker"]).to_pylist()
        unit = {row["image_id"]: row for row in rows}
        worker = rows[0]["worker"] if rows[0]["route"] else ""
        finished.append(Finished(path.stat().st_mtime, frozenset(unit), worker))
        found |= unit
    return finished, found


def steady(finished: list[Finished], source: str) -> tuple[float, frozenset[str]]:
    """Seconds from when every worker with a model had finished something to the end, and the images of that time.

    Raises:
        ManifestError: there is nothing in between.
    """
    ordered = sorted(finished, key=lambda group: group.at_s)
    firsts: dict[str, int] = {}
    for index, group in enumerate(ordered):
        if group.worker:
            firsts.setdefault(group.worker, index)
    first = max(firsts.values(), default=len(ordered))
    later = ordered[first + 1 :]
    if not later or later[-1].at_s <= ordered[first].at_s:
        problem, remedy = "too few images need a model to see a steady state", "take more images, of several routes"
        raise ManifestError(problem, key="source.uri", value=source, remedy=remedy)
    return later[-1].at_s - ordered[first].at_s, frozenset().union(*(group.ids for group in later))


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
    """Print the table on standard output and return it as text."""
    console, table = Console(record=True, width=110), Table("", "median", "lowest", "highest", title="Throughput")
    for name in result["runs"][0]:
        values = [run[name] for run in result["runs"]]
        table.add_row(name, *(f"{value:.3f}" for value in (statistics.median(values), min(values), max(values))))
    console.print(table)
    for part in ("bare", "machine", "versions"):
        console.print(f"{part}: " + ", ".join(f"{key} {value}" for key, value in result[part].items()))
    return console.export_text()


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["bench", *sys.argv[1:]]))
