"""A BLIP-2 checkpoint as encoder from end to end: bank, classifier, adapter, restorer; and pins that don't hold."""

# ruff: noqa: F811 - `preset` is a fixture that lies with the tests of the models
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fdi_lib.core.degrade import degrade
from fdi_lib.errors import WeightsError
from fdi_lib.manifest import (
    BankManifest,
    CheckpointSettings,
    ClassifySettings,
    ModelSettings,
    RestoreSettings,
    TrainManifest,
)
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.classifier import Classifier
from fdi_lib.models.encoders import find_encoder
from fdi_lib.models.presets import describe_models, model_folders, view_spec
from fdi_lib.models.restorer import Restorer
from jobs import bank
from jobs.training import pairs as own_pairs
from jobs.training import plan as planning
from tests.blip2 import SIZE_PX, save_blip2
from tests.jobs.test_bank import _manifest
from tests.models.conftest import preset  # noqa: F401 - a fixture
from tests.pairs import blocks, write_pairs

NAMES = ("haze", "noise")


def _image(name: str | None, number: int) -> np.ndarray:
    rng, clean = blocks(number, 12)
    return ((degrade(name, clean, rng) if name else clean) * 255).astype(np.uint8)


def _training(root: Path, models: dict[str, object]) -> TrainManifest:
    data = {"kind": "clean", "uri": str(root / "clean")}
    return TrainManifest.model_validate(
        {"kind": "train", "task": "noise", "data": data, "models": models, "output": str(root / "noise")}
    )


@pytest.mark.usefixtures("ray_local")
def test_bank_classifier_and_restorer_work_with_it(preset: Path, tmp_path: Path) -> None:
    save_blip2(tmp_path / "encoder", max_shard_size="60KB")
    found = find_encoder(tmp_path / "encoder")
    pairs = [{"task": name, "uri": str(write_pairs(tmp_path / "pairs" / name, name, 30))} for name in NAMES]
    pinned = {"encoder": {"uri": str(tmp_path / "encoder"), "sha256": found.sha256}}
    made = _manifest(preset, tmp_path / "bank", pairs=pairs, held_out_fraction=0.3, models=pinned)
    assert bank.build(made)["encoder_sha256"] == found.sha256
    references = ReferenceBank.from_pretrained(tmp_path / "bank", found.sha256)
    assert references.tokens_of("haze").shape == (8, 24)

    training = _training(tmp_path, {"base": str(preset / "base"), "bank": str(tmp_path / "bank"), **pinned})
    plan = planning.plan_of(training, [], planning.bank_of(training))
    assert plan.config.fdi_shape == (8, 24) and plan.config.encoder_sha256 == found.sha256

    base_sha256 = file_sha256(preset / "base" / "base.safetensors")
    for name in NAMES:
        config = AdapterConfig(
            name, (48, 96, 128, 160), fdi_shape=(8, 24), base_sha256=base_sha256, encoder_sha256=found.sha256
        )
        references.save_fdi(name, tmp_path / "adapters" / name)
        adapter = FDIAdapter(config, torch.from_numpy(references.tokens_of(name)))
        torch.nn.init.normal_(adapter.add[0].weight, std=0.03)
        adapter.save_pretrained(tmp_path / "adapters" / name)
    models = ModelSettings.model_validate(
        {
            "preset": "custom",
            **pinned,
            "base": str(preset / "base"),
            "bank": str(tmp_path / "bank"),
            "adapters": str(tmp_path / "adapters"),
        }
    )
    described = describe_models(models)
    assert described["encoder"] == {"sha256": found.sha256, "licence": "as stated by its owner"}
    assert view_spec(models).size_px == SIZE_PX

    restorer = Restorer.from_settings(models, ClassifySettings(clean_false_positive_rate=0.2), RestoreSettings())
    names = [name for name in NAMES for _ in range(8)]
    images = [_image(name, 100 + i) for i, name in enumerate(names)]
    decisions = restorer.classify(images)
    nearest = [max(decision.scores, key=decision.scores.__getitem__) for decision in decisions]
    right = sum(found == name for found, name in zip(nearest, names, strict=True))
    assert right >= 12, [(decision.route, decision.scores) for decision in decisions]
    assert sum(decision.route == "haze" for decision in decisions[:8]) >= 6  # of noise, random weights see little
    restored = restorer.restore(images[:1], decisions[:1])
    assert decisions[0].adapters and restored[0].shape == images[0].shape
    assert not np.array_equal(restored[0], images[0])


def test_a_bank_of_another_encoder_is_refused_before_anything_is_loaded(preset: Path, tmp_path: Path) -> None:
    save_blip2(tmp_path / "encoder")
    other = {"encoder": str(tmp_path / "encoder"), "base": str(preset / "base"), "bank": str(preset / "bank")}
    models = ModelSettings.model_validate({"preset": "custom", "adapters": str(preset / "adapters"), **other})
    with pytest.raises(WeightsError, match=r"bank: made with encoder \w+, found encoder"):
        describe_models(models)
    with pytest.raises(WeightsError, match="made with encoder"):
        Classifier.from_folders(model_folders(models), ClassifySettings(), RestoreSettings())
    parts = {"encoder": preset / "encoder", "base": preset / "base", "adapters": preset / "adapters"}
    Restorer(**parts, bank=preset / "bank")
    with pytest.raises(WeightsError, match="made with encoder"):
        Restorer(**parts | {"encoder": CheckpointSettings(uri=other["encoder"])}, bank=preset / "bank")


@pytest.mark.parametrize("kind", ["compact", "blip2"])
def test_a_pin_that_does_not_hold_is_refused_by_every_job(preset: Path, tmp_path: Path, kind: str) -> None:
    folder = preset / "encoder"
    if kind == "blip2":
        folder = tmp_path / "encoder"
        save_blip2(folder)
    pinned = {"encoder": {"uri": str(folder), "sha256": "5" * 64}}
    message = (
        rf"models\.encoder: {folder}/\w+\.safetensors: expected sha256 5{{64}}, found {find_encoder(folder).sha256}"
    )
    others = {"base": str(preset / "base"), "bank": str(preset / "bank")}
    models = ModelSettings.model_validate(
        {"preset": "custom", "adapters": str(preset / "adapters"), **others, **pinned}
    )
    training = _training(tmp_path, others | pinned)
    pairs = [{"task": "noise", "uri": str(tmp_path / "pairs")}]
    building = BankManifest.model_validate(
        {"kind": "bank", "pairs": pairs, "models": pinned, "output": str(tmp_path / "bank")}
    )
    for work in (
        lambda: describe_models(models),  # restore, retry and plan ask this first
        lambda: Restorer.from_settings(models, ClassifySettings(), RestoreSettings()),  # evaluate
        lambda: planning.bank_of(training),
        lambda: own_pairs.folders_with(training, None),
        lambda: bank.build(building),
    ):
        with pytest.raises(WeightsError, match=message):
            work()
