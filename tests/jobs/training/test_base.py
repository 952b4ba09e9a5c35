"""``fdi train`` against a Stable Diffusion-shaped base: the plan, and (slow) the whole of it on Ray."""

# ruff: noqa: F811 - fixtures that lie with the tests of the models
from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import TrainManifest
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.base_files import base_sha256
from jobs import train
from jobs.training.plan import bank_of, plan_of, recipe_of
from tests.models.conftest import folders, preset  # noqa: F401 - fixtures
from tests.pairs import write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve hazy pictures of 64 px with their clean originals."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), "haze", 12, cells=8, digits=1)


def settings(pairs: Path, preset: Path, base: Path, output: Path, **keys: object) -> TrainManifest:
    return TrainManifest.model_validate(
        {
            "kind": "train", "task": "haze", "data": {"uri": str(pairs), "kind": "pairs", "validation_fraction": 0.3},
            "models": {"encoder": str(preset / "encoder"), "base": str(base), "bank": str(preset / "bank")},
            "output": str(output), "steps": 2, "batch": 2, "crop_px": 64, "warmup_steps": 1,
            "watch": {"validation_crops": 2}, "worker": {"cpus": 0.5, "memory_gib": 0.5},
        } | keys
    )  # fmt: skip


def test_a_plan_names_the_base_by_its_hash(pairs, preset, folders, tmp_path):
    manifest = settings(pairs, preset, folders["sdxl"], tmp_path / "out", adapter={"modulator": "literal"})
    plan = plan_of(manifest, [], bank_of(manifest))
    assert plan.base.sha256 == plan.config.base_sha256 == base_sha256(folders["sdxl"])
    assert (plan.config.base, plan.config.modulator) == ("stable-diffusion-xl", "literal")
    assert plan.config.encoder_points[0] == "down_blocks.0" and plan.config.latent_channels == 4
    sent = pickle.loads(pickle.dumps(plan))  # as workers get it
    assert sent.model().base.name == "stable-diffusion-xl"
    models = manifest.models.model_copy(update={"base": plan.base.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(WeightsError, match="expected the base with sha256 0000"):
        plan_of(manifest.model_copy(update={"models": models}), [], bank_of(manifest))
    with pytest.raises(ManifestError, match="crop_px = '40': doesn't fit the base; use a multiple of 32"):
        plan_of(manifest.model_copy(update={"crop_px": 40}), [], bank_of(manifest))


def test_the_form_of_an_adapter_counts_in_its_recipe_only_where_it_is_another(pairs, preset, folders, tmp_path):
    manifest = settings(pairs, preset, folders["sd15"], tmp_path)
    without = manifest.model_dump(exclude={"adapter"})
    assert recipe_of(manifest, []) == recipe_of(TrainManifest.model_validate(without), [])
    other = settings(pairs, preset, folders["sd15"], tmp_path, adapter={"parts": "modulator"})
    assert recipe_of(manifest, []) != recipe_of(other, [])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_an_adapter_is_trained_measured_and_loads(pairs, preset, folders, tmp_path, kind):
    before = base_sha256(folders[kind])
    summary = train.run(settings(pairs, preset, folders[kind], tmp_path / "haze"))
    assert summary["last"]["step"] == 2 and "gain_db" in summary["measured"]
    adapter = FDIAdapter.from_pretrained(tmp_path / "haze")
    assert adapter.config.base_sha256 == before == base_sha256(folders[kind])
    assert all(torch.isfinite(p).all() for p in adapter.parameters())
