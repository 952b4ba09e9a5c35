"""What the job is measured against: a bare loop without Ray, and the plain Ray Data chain that one writes in an hour.

Both use the job's own functions, models and settings. Neither keeps a ledger, provenance or durable files, resumes, or
survives a dead worker: that is what the job's overhead pays for. Does NOT know the job, nor how results are compared.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fdi_lib.core.decision import Decision
from fdi_lib.core.noise import noise_key
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.errors import ItemError
from fdi_lib.manifest import RestoreManifest
from fdi_lib.stages.classify import ViewClassifier
from fdi_lib.stages.restore import ImageRestorer
from fdi_lib.storage.images import DecodedImage, decode, encode
from fdi_lib.storage.provenance import Label
from fdi_lib.storage.sources import list_objects, read_images
from fdi_lib.storage.store import ObjectEntry, Store

STAGES = ("read", "decode", "classify", "restore", "write")
_GROUP = 32  # images of one route restored together, as in the job's units
_Item = dict[str, Any]  # image_id and data: the file's bytes, none where it cannot be read


@dataclass(frozen=True)
class Finished:
    """Images finished together: when (seconds since the epoch), which, by which worker ("" where none had a model)."""

    at_s: float
    ids: frozenset[str]
    worker: str


@dataclass(frozen=True)
class _Image:
    image_id: str
    data: bytes
    picture: DecodedImage
    decision: Decision


class Loop:
    """Decode, classify, restore and write, one step after the other, each image read once; adds up the seconds.

    Images of a route are kept decoded until there are 32, so that their tiles fill batches like the job's. Files are
    written plainly: no sidecar, hash, fsync or ledger. Writing is timed apart: one pass tells both with and without.

    Args:
        manifest: the job's settings.
        classifier: loaded.
        restorer: loaded.
        spec: the classifier's views.
        folder: where files are written.
    """

    def __init__(self, manifest: RestoreManifest, classifier: ViewClassifier, restorer: ImageRestorer, spec: ViewSpec,
                 folder: Path) -> None:  # fmt: skip
        self.manifest, self.classifier, self.restorer = manifest, classifier, restorer
        self.spec, self.folder = spec, folder
        self.compositions: dict[str, str] = {}  # of every image; empty where nothing was restored
        self._spent: dict[str, dict[str, float]] = {stage: defaultdict(float) for stage in STAGES}
        self._groups: dict[str, list[_Image]] = defaultdict(list)

    def seconds(self, stages: Iterable[str] = STAGES, ids: frozenset[str] | None = None) -> float:
        """Seconds of some stages, over some images or all."""
        return sum(spent for stage in stages for i, spent in self._spent[stage].items() if ids is None or i in ids)

    def book(self, stage: str, ids: list[str], started: float) -> float:
        """Share the time since ``started`` among images; return the time now (``perf_counter``)."""
        now = time.perf_counter()
        for image_id in ids:
            self._spent[stage][image_id] += (now - started) / len(ids)
        return now

    def add(self, items: list[_Item]) -> None:
        """Classify a batch of images; restore and write the groups that it completes."""
        ids, started = [item["image_id"] for item in items], time.perf_counter()
        pictures = [self._decoded(item["data"]) for item in items]
        views = [make_views(picture.pixels, self.spec) for picture in pictures if picture]
        started = self.book("decode", ids, started)
        shorter_px = [min(picture.pixels.shape[:2]) for picture in pictures if picture]
        decisions = iter(self.classifier.classify_views(np.stack(views), shorter_px) if views else [])
        self.book("classify", ids, started)
        for item, picture in zip(items, pictures, strict=True):
            self.compositions[item["image_id"]] = ""
            if picture is not None:
                self._take(_Image(**item, picture=picture, decision=next(decisions)))

    def flush(self) -> None:
        """Restore and write what waits for its group to fill."""
        while self._groups:
            self._restore(self._groups.popitem()[1])

    def _decoded(self, data: bytes) -> DecodedImage | None:
        try:
            return decode(data, self.manifest.limits.max_pixels_mp)
        except ItemError:
            return None  # the job makes it a row in `failed`; a loop goes on

    def _take(self, image: _Image) -> None:
        decision = image.decision
        if decision.verdict == "clean":
            started = time.perf_counter()
            self._file(image.image_id).write_bytes(image.data)
            self.book("write", [image.image_id], started)
        elif decision.verdict != "unknown":
            self.compositions[image.image_id] = decision.composition
            self._groups[decision.route].append(image)
            if len(self._groups[decision.route]) == _GROUP:
                self._restore(self._groups.pop(decision.route))

    def _restore(self, group: list[_Image]) -> None:
        ids, started = [image.image_id for image in group], time.perf_counter()
        hashes = [hashlib.sha256(image.data).hexdigest() for image in group]
        keys = [noise_key(self.manifest.restore.seed, sha256) for sha256 in hashes]
        made = self.restorer.restore_each([i.picture.pixels for i in group], [i.decision for i in group], keys)
        started = self.book("restore", ids, started)
        for image, sha256, one in zip(group, hashes, made, strict=True):
            if one.pixels is None:
                continue  # the job lets a person decide
            label = Label(image.image_id, sha256, image.decision.composition, "bench", "", "2000-01-01T00:00:00Z")
            data, extension = encode(image.picture, one.pixels, self.manifest.output.image, label)
            self._file(image.image_id + extension).write_bytes(data)
        self.book("write", ids, started)

    def _file(self, name: str) -> Path:
        return self.folder / name.replace("/", "~")


def bare_loop(loop: Loop, most: int | None = None) -> None:
    """Run a loop over the whole source, or its first ``most`` images, in this process."""
    items = islice((item for row in _objects(loop.manifest) for item in _read(loop.manifest, row)), most)
    started = time.perf_counter()
    while batch := list(islice(items, loop.manifest.pools.classify.batch)):
        loop.book("read", [item["image_id"] for item in batch], started)
        loop.add(batch)
        started = time.perf_counter()
    loop.flush()


def plain_way(manifest: RestoreManifest, load: Callable[[], Loop], actors: int) -> tuple[list[Finished], int]:
    """Run the chain on the Ray that is there: read, then one pool that does all the rest with mixed batches.

    Args:
        manifest: the job's settings.
        load: makes a loop with its models, in each actor.
        actors: size of the pool.

    Returns:
        What was finished when, and how often an adapter was loaded.
    """
    import ray
    from ray.data import ActorPoolStrategy

    rows = (
        ray.data.from_items(list(_objects(manifest)))
        .flat_map(partial(_read, manifest), num_cpus=manifest.pools.decode.cpus)
        .map_batches(
            _PlainRestore,
            fn_constructor_args=(load,),
            batch_size=manifest.pools.classify.batch,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=actors),
            num_cpus=manifest.pools.restore.cpus,
            num_gpus=manifest.pools.restore.gpus,
        )
        .take_all()
    )
    finished = [Finished(row["at_s"], frozenset(map(str, row["ids"])), row["worker"]) for row in rows]
    return finished, sum(row["loads"] for row in rows)


def _objects(manifest: RestoreManifest) -> Iterator[dict[str, Any]]:
    return (entry._asdict() for block in list_objects(manifest.source, 1000) for entry in block)


def _read(manifest: RestoreManifest, row: dict[str, Any]) -> Iterator[_Item]:
    store = Store.open(manifest.source.uri, manifest.source.storage)
    for reference, data in read_images(store, manifest.source, ObjectEntry(**row)):
        yield {"image_id": reference["image_id"], "data": data if isinstance(data, bytes) else b""}


class _PlainRestore:
    def __init__(self, load: Callable[[], Loop]) -> None:
        self.loop = load()

    def __call__(self, batch: pa.Table) -> pa.Table:
        ids, before = batch["image_id"].to_pylist(), self.loop.restorer.loads
        self.loop.add(batch.to_pylist())
        self.loop.flush()
        worker = str(os.getpid()) if any(self.loop.compositions[image_id] for image_id in ids) else ""
        loads = self.loop.restorer.loads - before
        return pa.table({"at_s": [time.time()], "ids": [ids], "worker": [worker], "loads": [loads]})
