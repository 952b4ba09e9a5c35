"""What a user reads when workers fail; how whole trainings go is told in test_train_adapter.py."""

from __future__ import annotations

from pathlib import Path

from ray.train.v2.api.exceptions import WorkerGroupError

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import TrainManifest
from fdi_lib.models.adapter import AdapterConfig
from fdi_lib.training.adapter import LossWeights
from jobs.training.on_ray import _said
from jobs.training.plan import Plan

MANIFEST = TrainManifest.model_validate(
    {"kind": "train", "task": "noise", "data": {"uri": "/d"}, "output": "/o/noise", "max_failures": 2}
)
PLAN = Plan(MANIFEST, "0" * 64, AdapterConfig("noise", (48,)), Path("/b"), None, LossWeights())


def said(failure: Exception) -> str:
    return str(_said(WorkerGroupError("two died", {0: failure}), PLAN))


def test_the_reason_that_a_worker_gave_is_told() -> None:
    assert said(OSError(28, "No space left on device")).startswith("/o/noise.training: the disk is full")
    wrapped = RuntimeError("in a task")
    wrapped.__cause__ = ManifestError("smaller than a crop", key="data.uri", value="/d", remedy="take it out")
    assert said(wrapped) == "data.uri = '/d': smaller than a crop; take it out"
    assert "died 3 times (lost)" in said(RuntimeError("a worker\nlost"))
