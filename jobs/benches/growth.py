"""``fdi bench``, section ``growth``: does the job get slower, or larger, with more images, or more actors?

The whole job on small images with a fake device. Does NOT know how the job works.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from fdi_lib.manifest import RestoreManifest
from jobs import restore
from jobs.benches.fake import FakeDevice, make_images
from jobs.benches.job import committed, steady
from jobs.memory import resident_mib

TIMES, ACTORS = (1, 4, 16), (1, 2, 4)
_N, _N_ACTORS = 1024, 384  # a few dozen images would all be in flight at once, and seem quick
_SIZE = (96, 128)
_SAMPLE_S = 0.2


def measure(folder: Path) -> list[dict[str, Any]]:
    """Run the job on n, 4n and 16n images with two actors, then on fewer with 1, 2 and 4.

    Returns:
        For each: ``images``, ``actors``, ``seconds_per_image`` (in the steady state, as for the section ``job``),
        ``driver_mib`` and ``object_store_mib`` (peaks).
    """
    runs = [(_N * times, 2, 0.01) for times in TIMES] + [(_N_ACTORS, actors, 0.1) for actors in ACTORS]
    with tempfile.TemporaryDirectory(dir=folder, prefix="growth-") as name:
        return [_run(Path(name) / str(number), *run) for number, run in enumerate(runs)]


def _run(folder: Path, images: int, actors: int, tile_s: float) -> dict[str, Any]:
    device = FakeDevice(folder / "adapters", routes=4, tile_s=tile_s)
    device.write_adapters()
    manifest = RestoreManifest.model_validate({
        "kind": "restore",
        "source": {"uri": str(make_images(folder / "in", images, _SIZE))},
        "output": {"uri": str(folder / "out")},
        "gates": {"enabled": False},
        "pools": {
            "decode": {"cpus": 0.5, "memory_gib": 0.25},
            "classify": {"cpus": 0.25, "memory_gib": 0.25, "max": 1},
            "restore": {"cpus": 0.25, "memory_gib": 0.25, "min": actors, "max": actors},
        },
    })  # fmt: skip
    peaks = {"driver_mib": 0.0, "object_store_mib": 0.0}
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peaks, ended), daemon=True)
    watcher.start()
    try:
        summary = restore.run(manifest, device.parts())
    finally:
        ended.set()
        watcher.join()
    assert summary["restored"] == images
    window_s, ids = steady(committed(folder / "out")[0], manifest.source.uri)
    return {
        "images": images,
        "actors": actors,
        "tile_s": tile_s,
        "seconds_per_image": round(window_s / len(ids), 5),
        **{key: round(peak, 1) for key, peak in peaks.items()},
    }


def _watch(peaks: dict[str, float], ended: threading.Event) -> None:
    while not ended.wait(_SAMPLE_S):
        peaks["driver_mib"] = max(peaks["driver_mib"], resident_mib())
        if ray.is_initialized():
            peaks["object_store_mib"] = max(peaks["object_store_mib"], _object_store_mib(ray.cluster_resources))


def _object_store_mib(total: Callable[[], dict[str, float]]) -> float:
    try:
        have, free = total(), ray.available_resources()
    except (ConnectionError, RuntimeError, ray.exceptions.RayError):  # it is just being shut down
        return 0.0
    return (have.get("object_store_memory", 0.0) - free.get("object_store_memory", 0.0)) / 2**20
