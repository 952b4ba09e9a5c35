"""Every default is the contract's, and settings are frozen values."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from fdi_lib.manifest import CheckpointSettings, ModelSettings, RestoreManifest, RestoreSettings

DEFAULTS = """
models: {preset: compact, encoder: null, base: null, bank: null, adapters: null}
classify: {max_adapters: 3, clean_false_positive_rate: 0.01, unknown: review}
restore: {mode: progressive, init: auto, start_t: auto, steps: auto, guidance_window: auto, seed: 0, strength: 1.0,
          tile_px: 512, overlap_px: 128, dtype: auto, vae: auto, compile: "off", channels_last: false,
          fidelity: true, redetect: false, adapters: {}}
gates: {enabled: true, on_fail: review}
pools:
  decode:   {cpus: 1, memory_gib: 1}
  classify: {cpus: 1, gpus: 0, memory_gib: 2, min: 1, max: 4, batch: 32}
  restore:  {cpus: 1, gpus: 0, memory_gib: 4, min: 1, max: 64, batch: 8, resident_adapters: 8}
limits: {max_pixels_mp: 400, timeout_s: 600, max_failed_fraction: 0.01, wait_s: 1800, grace_s: 30}
"""


def manifest(**blocks: object) -> RestoreManifest:
    return RestoreManifest.model_validate(
        {"kind": "restore", "source": {"uri": "/in"}, "output": {"uri": "/out"}, **blocks}
    )


def test_defaults() -> None:
    found = manifest().model_dump(mode="json")
    assert found.pop("kind") == "restore"
    assert found.pop("source") == {"uri": "/in", "format": "auto", "storage": {"endpoint_url": None, "region": None}}
    assert found.pop("output") == {
        "uri": "/out",
        "layout": "files",
        "image": {"format": "same", "quality": 95},
        "storage": {"endpoint_url": None, "region": None},
    }
    assert found["classify"].pop("extent") == "auto"
    assert found == yaml.safe_load(DEFAULTS)


def test_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        manifest().restore.steps = 4  # type: ignore[misc]
    for wrong in ({"steps": "4"}, {"steps": True}, {"seed": 1.5}, {"fidelity": 1}, {"extra": 1}, {"seed": -1}):
        with pytest.raises(ValidationError):
            RestoreSettings.model_validate(wrong)


def test_custom_models_are_complete() -> None:
    custom = {"preset": "custom", "encoder": "org/encoder", "bank": "/bank", "adapters": "/adapters"}
    with pytest.raises(ValidationError, match="preset custom needs base"):
        ModelSettings.model_validate(custom)
    models = ModelSettings.model_validate({**custom, "base": {"uri": "org/base", "revision": "abc"}})
    assert models.encoder is not None and models.encoder.uri == "org/encoder"
    assert models.base is not None and models.base.revision == "abc"
    assert ModelSettings.model_validate({"bank": "/own/bank", "adapters": "/own"}).preset == "compact"


def test_dump_validates_again() -> None:
    models = {"preset": "custom", "encoder": "e", "base": "b", "bank": "/bank", "adapters": "/adapters"}
    before = manifest(models=models, restore={"steps": 4})
    assert RestoreManifest.model_validate(before.model_dump(mode="json")) == before


def test_a_checkpoints_folder_means_the_same_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "encoder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    uris = [CheckpointSettings(uri=uri).uri for uri in ("org/encoder", f"file://{tmp_path}/org", "org/other", "s3://a")]
    assert uris == [f"{tmp_path}/org/encoder", f"{tmp_path}/org", "org/other", "s3://a"]
