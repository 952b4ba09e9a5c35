"""How much memory a large image takes beyond what a worker holds already: measured in fresh processes.

One process decodes and looks, as a decode task does; another one decodes, restores, checks, encodes and writes, as a
restore actor does: the job's own stages. Each first takes a small image of the same kind. Counted is what is resident
of the process and of its children. Does NOT know Ray, nor what is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyvips
import torch

from fdi_lib.core.batches import unpack
from fdi_lib.core.decision import Decision, Restored, told
from fdi_lib.core.degrade import degrade
from fdi_lib.core.degrade.fields import smooth_field
from fdi_lib.core.protocol import quantise
from fdi_lib.manifest import RestoreManifest
from fdi_lib.models.tiles import Tiling
from fdi_lib.records import DECISION
from fdi_lib.stages.decode import Decode, pack_entries
from fdi_lib.stages.restore import Restore
from fdi_lib.storage.sources import list_objects
from jobs.memory import resident_mib
from jobs.parts import load_restorer, view_spec

_BLOCK_PX = 1000  # made once and repeated
_SMALL_PX = 600  # of the image before: more than one tile
_EVERY_S = 0.02
_RUN = {"started": "2000-01-01T00:00:00Z", "versions": {"fdi-restore": None}, "manifest": {}}


def measure(folder: Path, side: int, names: tuple[str, ...], kind: str, model: bool = True) -> dict[str, Any]:
    """Take one image of ``side`` x ``side`` px through the job's stages.

    Args:
        folder: an empty one, for the files.
        side: px.
        names: what the image is damaged by, and which adapters restore it, one after the other, in reverse.
        kind: file name extension: ``jpg`` or ``tif`` (uncompressed).
        model: whether adapters and base compute; else tiles are cut, decoded and blended as they are.

    Returns:
        ``megapixels``, ``file_mib``; for ``decode`` and ``restore`` each: ``before_mib`` (resident with models, after
        the small image), ``above_mib`` (peak above that), ``seconds``; ``status`` of the image.
    """
    source = folder / "in"
    source.mkdir(parents=True)
    for name, size in (("a-small", _SMALL_PX), ("b-large", side)):
        _write(source / f"{name}.{kind}", size, names)
    manifest = RestoreManifest.model_validate({
        "kind": "restore", "source": {"uri": str(source)}, "output": {"uri": str(folder / "out")},
        "models": {"preset": "compact"},
    })  # fmt: skip
    looked = _fresh(_decode, manifest)
    decision = told(tuple(reversed(names)))
    route = {"verdict": decision.verdict, "route": decision.route, "composition": decision.composition}
    restored = _fresh(_restore, manifest, [row | route for row in looked.pop("rows")], model)
    file_mib = (source / f"b-large.{kind}").stat().st_size / 2**20
    status = restored.pop("status")
    return {"megapixels": side**2 / 1e6, "file_mib": file_mib, "decode": looked, "restore": restored, "status": status}


def _fresh(work: Any, *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return dict(pool.submit(work, *arguments).result())


def _decode(manifest: RestoreManifest) -> dict[str, Any]:
    stage = Decode(manifest, view_spec(manifest.models))
    small, large = sorted(list_objects(manifest.source, 2).__next__(), key=lambda entry: entry.path)

    def row_of(entry: Any) -> dict[str, Any]:
        ((rows, _),) = unpack(next(iter(stage(pack_entries([entry])))))
        return dict(rows.to_pylist()[0])

    first = row_of(small)
    with _peak() as found:
        rows = [first, row_of(large)]
    return found | {"rows": rows}


def _restore(manifest: RestoreManifest, rows: list[dict[str, Any]], model: bool) -> dict[str, Any]:
    stage = Restore(manifest, _RUN, partial(load_restorer if model else Unchanged, manifest))
    small, large = (pa.Table.from_pylist([row], schema=DECISION) for row in rows)
    stage(small, 1)
    with _peak() as found:
        counts = stage(large, 1)
    status = next(key for key in ("restored", "review", "kept", "failed") if counts[key])
    return found | {"status": status, "by_step": counts["seconds"]}


class Unchanged:
    """A restorer that gives every image back through the product's tiles, without a model."""

    loads = 0

    def __init__(self, manifest: RestoreManifest) -> None:
        restorer: Any = load_restorer(manifest)
        s, self._base = manifest.restore, restorer.base
        self.adapter_hashes: dict[str, str] = restorer.adapter_hashes
        self._tiling = Tiling(self._base, s.tile_px, s.overlap_px, manifest.pools.restore.batch, torch.device("cpu"))

    def steps_of(self, decision: Decision) -> int:
        """None is taken."""
        return 0

    @torch.inference_mode()
    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[Restored]:
        """See the class."""
        tiling = self._tiling
        groups = tiling.groups(tiling.tiles(images))
        made = tiling.over(images, ((g, self._base.encode(tiling.pixels(images, g))) for g in groups), images)
        return [Restored(one.pixels, decision) for one, decision in zip(made, decisions, strict=True)]


@contextmanager
def _peak() -> Iterator[dict[str, Any]]:
    """Fill in ``before_mib``, ``above_mib`` and ``seconds`` of what is done inside."""
    before = _tree_mib()
    found: dict[str, Any] = {"before_mib": before}
    peak, stop = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(_EVERY_S):
            peak = max(peak, _tree_mib())

    began, watcher = time.perf_counter(), threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()
        found |= {"above_mib": peak - before, "seconds": time.perf_counter() - began}


def _tree_mib() -> float:
    """Resident memory of this process and of its children, MiB."""
    children = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    return resident_mib() + sum(resident_mib(int(pid)) for pid in children)


def _write(path: Path, side: int, names: tuple[str, ...]) -> None:
    """Smooth colours with fine texture, damaged, as a file."""
    rng = np.random.default_rng(0)
    shape = (min(side, _BLOCK_PX),) * 2
    texture = rng.normal(0, 0.02, (*shape, 1)).astype(np.float32)
    block = np.stack([smooth_field(shape, rng, 60.0, octaves=3) for _ in range(3)], axis=2) * 0.8 + 0.1 + texture
    for name in names:
        block = degrade(name, np.clip(block, 0, 1).astype(np.float32), rng, 0.5)
    times = -(-side // shape[0])
    image = pyvips.Image.new_from_array(quantise(block), interpretation="srgb").replicate(times, times)
    image.crop(0, 0, side, side).write_to_file(str(path))
