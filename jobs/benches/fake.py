"""Models that only take time, for benches: everything else of the job is real, so its overhead can't hide behind them.

An image's own pixels say on which route it is, in the job as in a bare loop. A tile takes a fixed time; an adapter that
is not resident is read from a real file and copied, the least recently used goes first. Does NOT know the job.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdi_lib.core.decision import Decision, Restored, told
from fdi_lib.core.tiling import tile_starts
from fdi_lib.core.views import ViewSpec
from fdi_lib.manifest import ModelSettings, RestoreManifest
from fdi_lib.storage.pack import tar_bytes
from jobs.parts import Parts

_SPEC = ViewSpec(size_px=32, crops=1)
_SHARD_IMAGES = 64


def zipf_shares(routes: int, exponent: float) -> np.ndarray:
    """Frequencies of routes by Zipf's law, most frequent first; exponent 0 makes them equal. float64, sum 1."""
    weights = np.arange(1, routes + 1, dtype=float) ** -exponent
    return weights / weights.sum()


@dataclass(frozen=True)
class FakeDevice:
    """What stands in for the models.

    Args:
        folder: where the adapters' files lie.
        routes: number of routes; each is one adapter.
        zipf: exponent of the routes' frequencies; 0 makes all equally frequent.
        tile_s: seconds that a tile takes.
        adapter_bytes: size of an adapter's file.
    """

    folder: Path
    routes: int = 8
    zipf: float = 0.0
    tile_s: float = 0.025
    adapter_bytes: int = 0

    @property
    def names(self) -> list[str]:
        """The adapters."""
        return [f"adapter{number:02d}" for number in range(self.routes)]

    @property
    def shares(self) -> np.ndarray:
        """Frequency of each route."""
        return zipf_shares(self.routes, self.zipf)

    def write_adapters(self) -> None:
        """Make the adapters' files, of random bytes: no file system may store them as holes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            (self.folder / name).write_bytes(os.urandom(self.adapter_bytes))

    def parts(self) -> Parts:
        """The device as the parts of a job."""
        return Parts(
            partial(_describe, self), _view_spec, partial(_make_classifier, self), partial(_make_restorer, self)
        )


class FakeClassifier:
    """Sends an image where a hash of its reduced view points."""

    def __init__(self, device: FakeDevice) -> None:
        self._decisions = [told([name]) for name in device.names]
        self._edges = np.cumsum(device.shares)[:-1]

    def classify_views(self, views: np.ndarray, shorter_px: Sequence[int]) -> list[Decision]:
        """See :class:`fdi_lib.stages.classify.ViewClassifier`."""
        points = [int.from_bytes(hashlib.blake2b(view[0].tobytes(), digest_size=4).digest()) / 2**32 for view in views]
        return [self._decisions[int(np.searchsorted(self._edges, point, side="right"))] for point in points]


class FakeRestorer:
    """Returns images as they are, after the time that their tiles take."""

    def __init__(self, device: FakeDevice, resident: int, tile_px: int, overlap_px: int) -> None:
        self.adapter_hashes = dict.fromkeys(device.names, "0" * 64)
        self._device, self._tile = device, (tile_px, overlap_px)
        self._load = lru_cache(resident)(partial(_load, device.folder))

    @property
    def loads(self) -> int:
        """See :class:`fdi_lib.stages.restore.ImageRestorer`."""
        return self._load.cache_info().misses

    def steps_of(self, decision: Decision) -> int:
        """See :class:`fdi_lib.stages.restore.ImageRestorer`."""
        return len(decision.adapters)

    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[Restored]:
        """See :class:`fdi_lib.stages.restore.ImageRestorer`."""
        for name in {name for decision in decisions for name, _ in decision.adapters}:
            self._load(name)
        tiles = sum(len(tile_starts(h, *self._tile)) * len(tile_starts(w, *self._tile)) for h, w in _sizes(images))
        time.sleep(tiles * self._device.tile_s)
        return [Restored(image, decision) for image, decision in zip(images, decisions, strict=True)]


def _load(folder: Path, name: str) -> np.ndarray:
    return np.frombuffer((folder / name).read_bytes(), np.uint8).copy()


def make_images(folder: Path, images: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Write tar shards of JPEG files, each another cut of coarse noise with some grain; return the folder.

    Args:
        folder: where to.
        images: how many.
        size: height and width in pixels.
        seed: another one gives other images.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = Image.fromarray(rng.integers(30, 220, (height // 16, width // 16, 3)).astype(np.uint8))
    ground = np.asarray(coarse.resize((2 * width, 2 * height), Image.Resampling.BICUBIC)).astype(np.int16)
    ground = ground + rng.integers(-6, 7, ground.shape, np.int16)
    for start in range(0, images, _SHARD_IMAGES):
        members = []
        for number in range(start, min(start + _SHARD_IMAGES, images)):
            y, x = rng.integers(0, height), rng.integers(0, width)
            pixels = np.clip(ground[y : y + height, x : x + width] + rng.integers(-20, 21), 0, 255)
            sink = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(sink, "jpeg", quality=92)
            members.append((f"{number:06d}.jpg", sink.getvalue()))
        (folder / f"{start // _SHARD_IMAGES:04d}.tar").write_bytes(tar_bytes(members))
    return folder


def _sizes(images: list[np.ndarray]) -> list[tuple[int, int]]:
    return [(image.shape[0], image.shape[1]) for image in images]


def _describe(device: FakeDevice, models: ModelSettings) -> dict[str, Any]:
    return {"adapters": {name: {"sha256": "0" * 64} for name in device.names}}


def _view_spec(models: ModelSettings) -> ViewSpec:
    return _SPEC


def _make_classifier(device: FakeDevice, manifest: RestoreManifest) -> FakeClassifier:
    return FakeClassifier(device)


def _make_restorer(device: FakeDevice, manifest: RestoreManifest) -> FakeRestorer:
    settings, pool = manifest.restore, manifest.pools.restore
    return FakeRestorer(device, pool.resident_adapters, settings.tile_px, settings.overlap_px)
