"""The job against a bare loop and against the plain way, on the same images, one after the other.

Does NOT judge the figures, nor choose images or models.
"""

from __future__ import annotations

import statistics
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

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import RestoreManifest
from fdi_lib.storage.ledger import FOLDER
from jobs import restore
from jobs.benches.fake import FakeDevice, make_images
from jobs.benches.plain import STAGES, Finished, Loop, bare_loop, plain_way
from jobs.parts import Parts, threads
from jobs.pool import cluster

RATIOS = ("steady", "with_writes", "with_cold_start")
_PROBED = 8  # images that tell which number of threads is faster
_FAKE_ROUTES, _FAKE_IMAGES = 8, 320
_FAKE_TILE = {"tile_px": 512, "overlap_px": 128}
_ADAPTER_BYTES = 94_000_000  # of an adapter for SD 2.1 in 16 bits


def with_models(
    settings: RestoreManifest, parts: Parts, folder: Path, repeats: int, plain: bool, cores: int
) -> dict[str, Any]:
    """Compare with real models.

    Returns:
        ``runs``, and of the bare loop ``threads`` and ``load_s``.
    """
    clock = time.perf_counter()
    loop = _loop(settings, parts, folder)
    load_s = time.perf_counter() - clock
    bare_threads = _fastest(loop, cores)
    runs = [_measure(settings, parts, loop, load_s, plain) for _ in range(repeats)]
    return {"bare": {"threads": bare_threads, "load_s": round(load_s, 2)}, "runs": runs}


def with_fake_device(
    settings: RestoreManifest, folder: Path, repeats: int, plain: bool, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Compare with a device that only takes time: one actor, eight routes, adapters of full size, one resident.

    The bare loop keeps all adapters.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="fake-") as name:
        device = FakeDevice(Path(name, "adapters"), routes=_FAKE_ROUTES, adapter_bytes=_ADAPTER_BYTES)
        device.write_adapters()
        source = settings.source.model_copy(update={"uri": str(make_images(Path(name, "in"), _FAKE_IMAGES, size))})
        one = settings.pools.restore.model_copy(update={"min": 1, "max": 1, "gpus": 0.0, "resident_adapters": 1})
        settings = settings.model_copy(update={
            "source": source,
            "restore": settings.restore.model_copy(update=_FAKE_TILE),
            "gates": settings.gates.model_copy(update={"enabled": False}),
            "pools": settings.pools.model_copy(update={"restore": one}),
        })  # fmt: skip
        all_resident = one.model_copy(update={"resident_adapters": _FAKE_ROUTES})
        loop_settings = settings.model_copy(
            update={"pools": settings.pools.model_copy(update={"restore": all_resident})}
        )
        loop = _loop(loop_settings, device.parts(), folder)
        with _scratch(loop) as (warm, _):
            bare_loop(warm, most=64)  # loads the adapters
        return [_measure(settings, device.parts(), loop, 0.0, plain) for _ in range(repeats)]


def median(runs: list[dict[str, Any]], name: str) -> float:
    """Median of one figure over the runs."""
    return round(statistics.median(run[name] for run in runs), 3)


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
        finished, rows = committed(folder / "job")
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
            "classify_share": bare.seconds(["classify"]) / bare.seconds(["restore"]),
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


def committed(output: Path) -> tuple[list[Finished], dict[str, dict[str, str]]]:
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
