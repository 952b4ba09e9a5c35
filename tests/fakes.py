"""A classifier and a restorer with the real signatures and no weights: an image's mean colour says what it needs.

Mean grey below 40: clean; 40-80: unknown; 80-120: noise; 120-160: haze>noise; 160 and above: scratch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdi_lib.core.decision import Decision, Restored
from fdi_lib.core.views import ViewSpec
from fdi_lib.errors import AdapterLoadError
from fdi_lib.manifest import ModelSettings, RestoreManifest

SPEC = ViewSpec(size_px=16, crops=1)
_ADAPTERS = ("haze", "noise", "scratch")


class FakeClassifier:
    view_spec = SPEC

    def classify_views(self, views: np.ndarray, shorter_px: Sequence[int]) -> list[Decision]:
        assert len(shorter_px) == len(views)
        assert views.dtype == np.uint8 and views.shape[3:] == (views.shape[2], 3)
        return [self._decide(float(view[0].mean())) for view in views]

    def _decide(self, mean: float) -> Decision:
        scores = {name: mean / 255 for name in _ADAPTERS}
        if mean < 40:
            return Decision("clean", scores=scores)
        if mean < 80:
            return Decision("unknown", scores=scores, residual=0.9)
        if mean < 120:
            return Decision("single", (("noise", 1.0),), scores=scores)
        if mean < 160:
            return Decision("mixture", (("haze", 0.5), ("noise", 1.0)), scores=scores)
        return Decision("single", (("scratch", 1.0),), scores=scores)


class FakeRestorer:
    """Adds noise that depends on the image's key alone; holds at most one adapter."""

    def __init__(self) -> None:
        self.loads = 0
        self.adapter_hashes = {name: name * 8 for name in _ADAPTERS}
        self._held = ""

    def steps_of(self, decision: Decision) -> int:
        return 4 * len(decision.adapters)

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        assert len({decision.route for decision in decisions}) == 1
        if decisions[0].route != self._held:
            self._held, self.loads = decisions[0].route, self.loads + 1
        keys = noise_keys or [0] * len(images)
        return [self._restore(image, key) for image, key in zip(images, keys, strict=True)]

    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[Restored]:
        made = self.restore(images, decisions, noise_keys)
        return [Restored(pixels, decision) for pixels, decision in zip(made, decisions, strict=True)]

    def _restore(self, image: np.ndarray, key: int) -> np.ndarray:
        noise = np.random.default_rng(key % 2**63).integers(0, 3, image.shape)
        return np.clip(image.astype(np.int64) + noise, 0, np.iinfo(image.dtype).max).astype(image.dtype)


class BlankRestorer(FakeRestorer):
    """Paints everything grey."""

    def _restore(self, image: np.ndarray, key: int) -> np.ndarray:
        return np.full_like(image, 128)


class DeadlyRestorer(FakeRestorer):
    """Kills its process when it meets an image of 66 pixels width, as a broken library would."""

    def _restore(self, image: np.ndarray, key: int) -> np.ndarray:
        if image.shape[1] == 66:
            os._exit(1)
        return super()._restore(image, key)


class SlowRestorer(FakeRestorer):
    """Takes its time."""

    def _restore(self, image: np.ndarray, key: int) -> np.ndarray:
        time.sleep(0.3)
        return super()._restore(image, key)


class MeddlingClassifier(FakeClassifier):
    """Once it has looked, somebody changes ``meddled.png`` in the source, and ``restless.png`` each time anew."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def classify_views(self, views: np.ndarray, shorter_px: Sequence[int]) -> list[Decision]:
        decisions = super().classify_views(views, shorter_px)
        noise = np.random.default_rng(time.monotonic_ns()).integers(180, 220, (48, 64, 3))
        Image.fromarray(noise.astype(np.uint8)).save(self._source / "restless.png")
        Image.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(self._source / "meddled.png")
        return decisions


class PickyRestorer(FakeRestorer):
    """Can't load the adapter for scratches; with ``marker``, only the first worker can't."""

    def __init__(self, marker: Path | None) -> None:
        super().__init__()
        self._can = marker is not None and marker.exists()
        if marker:
            marker.touch()

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        if not self._can and "scratch" in decisions[0].route:
            raise AdapterLoadError("scratch", "its file is broken")
        return super().restore(images, decisions, noise_keys)


def describe(models: ModelSettings) -> dict[str, Any]:
    return {"adapters": {name: {"sha256": name * 8} for name in _ADAPTERS}}


def view_spec(models: ModelSettings) -> ViewSpec:
    return SPEC


def make_classifier(manifest: RestoreManifest) -> FakeClassifier:
    return FakeClassifier()


def make_restorer(manifest: RestoreManifest) -> FakeRestorer:
    return FakeRestorer()


def make_blank(manifest: RestoreManifest) -> BlankRestorer:
    return BlankRestorer()


def make_deadly(manifest: RestoreManifest) -> DeadlyRestorer:
    return DeadlyRestorer()


def make_slow(manifest: RestoreManifest) -> SlowRestorer:
    return SlowRestorer()


def make_meddling(manifest: RestoreManifest) -> MeddlingClassifier:
    return MeddlingClassifier(Path(manifest.source.uri))


def make_picky_once(manifest: RestoreManifest) -> PickyRestorer:
    return PickyRestorer(Path(f"{manifest.source.uri}.marker"))


def make_picky(manifest: RestoreManifest) -> PickyRestorer:
    return PickyRestorer(None)


if __name__ == "__main__":  # a driver for tests that start the job as a process of its own
    import json
    import sys

    from fdi_lib.manifest import load_manifest
    from jobs.parts import Parts
    from jobs.restore import run

    # By the module's name, not as __main__: workers import these functions.
    from tests import fakes

    manifest = load_manifest(sys.argv[1], [])
    assert isinstance(manifest, RestoreManifest)
    print(json.dumps(run(manifest, Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer))))
