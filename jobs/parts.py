"""The models a job is put together from, as functions that make them where they shall live. Tests pass fakes.

Does NOT know Ray or storage; imports torch only inside a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fdi_lib.core.views import ViewSpec
from fdi_lib.manifest import ModelSettings, RestoreManifest
from fdi_lib.stages.classify import ViewClassifier
from fdi_lib.stages.restore import ImageRestorer


def describe(models: ModelSettings) -> dict[str, Any]:
    """Hashes and licences of the models, for run.json; fails early when one is missing."""
    from fdi_lib.models.presets import describe_models

    return describe_models(models)


def view_spec(models: ModelSettings) -> ViewSpec:
    """Size and number of the views that the classifier takes."""
    from fdi_lib.models import presets

    return presets.view_spec(models)


def load_classifier(manifest: RestoreManifest) -> ViewClassifier:
    """Make the classifier: encoder and bank, no base."""
    import torch

    from fdi_lib.models.classifier import Classifier

    torch.set_num_threads(threads(manifest.pools.classify.cpus))
    return Classifier.from_settings(manifest.models, manifest.classify, manifest.restore, classify_batch(manifest))


def load_restorer(manifest: RestoreManifest) -> ImageRestorer:
    """Make the restorer: base and adapters."""
    import torch

    from fdi_lib.models.restorer import Restorer

    pool = manifest.pools.restore
    torch.set_num_threads(threads(pool.cpus))
    return Restorer.from_settings(
        manifest.models, manifest.classify, manifest.restore, resident_adapters=pool.resident_adapters, batch=pool.batch
    )


@dataclass(frozen=True)
class Parts:
    """What a job loads, and how; every function must be picklable."""

    describe: Callable[[ModelSettings], dict[str, Any]] = describe
    view_spec: Callable[[ModelSettings], ViewSpec] = view_spec
    classifier: Callable[[RestoreManifest], ViewClassifier] = load_classifier
    restorer: Callable[[RestoreManifest], ImageRestorer] = load_restorer


def threads(cpus: float) -> int:
    """Threads of an actor with so many CPUs: they change floating-point results, so they are part of the profile."""
    return max(1, int(cpus))


def classify_batch(manifest: RestoreManifest) -> int:
    """Images of one forward pass: on a CPU batches gain nothing, and padding them costs whole passes."""
    pool = manifest.pools.classify
    return pool.batch if pool.gpus > 0 else 1


def numeric_profile(manifest: RestoreManifest) -> dict[str, Any]:
    """What, besides the run's identity, fixes the output's bytes."""
    classify, restore = manifest.pools.classify, manifest.pools.restore
    on_gpu = restore.gpus > 0
    dtype = manifest.restore.dtype
    return {
        "classify": {
            "batch": classify_batch(manifest),
            "device": "cuda" if classify.gpus > 0 else "cpu",
            "threads": threads(classify.cpus),
        },
        "restore": {
            "batch": restore.batch,
            "tile_px": manifest.restore.tile_px,
            "overlap_px": manifest.restore.overlap_px,
            "dtype": ("bf16" if on_gpu else "fp32") if dtype == "auto" else dtype,
            "device": "cuda" if on_gpu else "cpu",
            "threads": threads(restore.cpus),
            "compile": manifest.restore.compile,
            "channels_last": manifest.restore.channels_last,
            "vae": manifest.restore.vae,
        },
    }
