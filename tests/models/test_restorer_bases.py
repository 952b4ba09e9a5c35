"""The restorer on Stable Diffusion-shaped bases: latents of a VAE, several tiles, adapters that belong to the base."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fdi_lib.core.decision import Decision
from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import CheckpointSettings, ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.base_files import base_sha256
from fdi_lib.models.presets import describe_models
from fdi_lib.models.restorer import Restorer
from tests.tiny_checkpoints import KINDS

SETTINGS = RestoreSettings(tile_px=64, overlap_px=16)
NOISE = Decision("single", (("noise", 1.0),))
BOTH = Decision("mixture", (("haze", 0.5), ("noise", 0.7)), "composite")


@pytest.fixture(scope="module", params=KINDS)
def settings(request, preset, folders, bases, tmp_path_factory) -> ModelSettings:
    """The small preset's encoder and bank, with a checkpoint and adapters made for it."""
    kind, parent = request.param, tmp_path_factory.mktemp("adapters")
    encoder_sha256 = json.loads((preset / "adapters" / "noise" / "config.json").read_text())["encoder_sha256"]
    for name in ("haze", "noise"):
        config = AdapterConfig.for_base(
            bases[kind], name, (16, 128), base_sha256=base_sha256(folders[kind]), encoder_sha256=encoder_sha256
        )
        torch.manual_seed(0)
        adapter = FDIAdapter(config, torch.randn(16, 128))
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.03)
        shutil.copytree(preset / "adapters" / name, parent / name)
        adapter.save_pretrained(parent / name)
    return ModelSettings(
        preset="custom",
        encoder={"uri": str(preset / "encoder")},
        base={"uri": str(folders[kind]), "sha256": base_sha256(folders[kind])},
        bank=str(preset / "bank"),
        adapters=str(parent),
    )


def _image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


@pytest.mark.parametrize("init", ["input", "noised_input", "ddim_inversion"])
def test_an_image_larger_than_a_tile_comes_back_whole_and_the_same_every_time(settings, init):
    chosen = SETTINGS.model_copy(update={"init": init, "steps": 2})
    restorer = Restorer.from_settings(settings, ClassifySettings(), chosen, batch=2)
    image = _image(100, 150, 3)
    for decision in (NOISE, BOTH):
        out = restorer.restore([image, _image(20, 30)], [decision] * 2)
        assert [(o.shape, o.dtype) for o in out] == [((100, 150, 3), np.uint8), ((20, 30), np.uint8)]
        np.testing.assert_array_equal(restorer.restore([image], [decision])[0], out[0])


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precision_stays_finite_and_near(settings, dtype):
    image = _image(64, 64, 3)
    exact, half = (
        Restorer.from_settings(settings, ClassifySettings(), SETTINGS.model_copy(update={"dtype": d}))
        for d in ("fp32", dtype)
    )
    a, b = (r.restore([image], [NOISE])[0].astype(int) for r in (exact, half))
    assert np.abs(a - b).max() < 40


def test_what_a_run_says_about_the_base(settings, preset):
    described = describe_models(settings)
    assert described["base"] == {"sha256": settings.base.sha256, "licence": "as stated by its owner"}
    with pytest.raises(WeightsError, match=f"made for base .*, found base {settings.base.sha256[:12]}"):
        describe_models(settings.model_copy(update={"adapters": str(preset / "adapters")}))
    wrong = CheckpointSettings(uri=settings.base.uri, sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"expected the base with sha256 {'0' * 64}"):
        describe_models(settings.model_copy(update={"base": wrong}))


def test_an_adapter_whose_blocks_are_not_the_base_s_is_refused_before_use(settings, tmp_path):
    folder = tmp_path / "adapters"
    shutil.copytree(Path(settings.adapters), folder)
    path = folder / "noise" / "config.json"
    config = json.loads(path.read_text())
    config["encoder_points"][1] = "down_blocks.9.attentions.1"
    path.write_text(json.dumps(config))
    restorer = Restorer.from_settings(
        settings.model_copy(update={"adapters": str(folder)}), ClassifySettings(), SETTINGS
    )
    with pytest.raises(WeightsError, match=r"noise: expected .*down_blocks\.9\.attentions\.1.* found"):
        restorer.restore([_image(64, 64, 3)], [NOISE])


def test_tiles_fit_the_latent_of_the_unet_s_last_level(settings):
    two_encoders = Path(settings.base.uri, "text_encoder_2").is_dir()
    with pytest.raises(ManifestError, match=f"multiple of {32 if two_encoders else 64}"):
        Restorer.from_settings(settings, ClassifySettings(), RestoreSettings(tile_px=72, overlap_px=16))
