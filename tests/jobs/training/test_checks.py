"""What can't be trained is refused before anything starts."""

from __future__ import annotations

import pytest

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import TrainManifest
from jobs.training.checks import check_latents, check_recipes


def test_unknown_recipes_are_refused_by_name() -> None:
    check_recipes(["noise", "haze"], "data.degradations")
    with pytest.raises(ManifestError, match="rust"):
        check_recipes(["noise", "rust"], "data.degradations")


def test_latents_that_a_worker_has_no_memory_for_are_refused_with_what_they_need() -> None:
    data = {"uri": "/pairs", "kind": "pairs", "cached_latents": 20}
    values = {"kind": "train", "task": "haze", "data": data, "output": "/o", "worker": {"memory_gib": 1}}
    gib = 2**30 / 1000  # the latents of one of a thousand crops
    check_latents(TrainManifest.model_validate(values), 1000, int(0.5 * gib))
    check_latents(TrainManifest.model_validate(values | {"workers": [4, 8]}), 1000, int(2 * gib))
    with pytest.raises(ManifestError, match=r"data\.cached_latents.*1000 crops need 3\.0 GiB.*memory_gib to 6\.0"):
        check_latents(TrainManifest.model_validate(values), 1000, int(3 * gib))


def test_latents_are_not_kept_of_batches_that_are_mirrored() -> None:
    data = {"uri": "/pairs", "cached_latents": 20}
    with pytest.raises(ValueError, match="mirrored batch"):
        TrainManifest.model_validate({"kind": "train", "task": "haze", "data": data, "output": "/o", "echo": 2})
