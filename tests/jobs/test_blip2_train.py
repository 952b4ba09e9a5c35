"""``fdi train`` against a BLIP-2 checkpoint: from own pairs and from clean pictures, and what doesn't belong to it."""

# ruff: noqa: F811 - `preset` is a fixture that lies with the tests of the models
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from fdi_lib.errors import WeightsError
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings, StorageSettings
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoders import find_encoder
from fdi_lib.models.presets import describe_models
from fdi_lib.models.restorer import Restorer
from jobs import adapters, bank, train
from tests.blip2 import save_blip2
from tests.jobs.short_recipes import clean_data
from tests.jobs.test_bank import _manifest
from tests.jobs.training.test_adapter import settings
from tests.models.conftest import preset  # noqa: F401 - a fixture
from tests.pairs import write_pairs

SHAPE = (8, 24)  # 2 x 4 query tokens of 24 numbers


@pytest.fixture(scope="module")
def models(ray_local: None, preset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A BLIP-2 checkpoint, a bank that ``fdi bank build`` made with it (noise and haze), and the small base."""
    root = tmp_path_factory.mktemp("blip2")
    save_blip2(root / "encoder")
    pairs = [{"task": n, "uri": str(write_pairs(root / "pairs" / n, n, 24))} for n in ("noise", "haze")]
    encoder = {"encoder": str(root / "encoder")}
    bank.build(_manifest(preset, root / "bank", pairs=pairs, held_out_fraction=0.3, models=encoder))
    return encoder | {"base": str(preset / "base"), "bank": str(root / "bank")}


def _custom(models: dict[str, str], parent: Path) -> ModelSettings:
    return ModelSettings.model_validate({"preset": "custom", "adapters": str(parent), **models})


def _carried(folder: Path) -> tuple[np.ndarray, str]:
    """FDI tokens that an adapter carries, and the encoder's hash beside them."""
    with safe_open(folder / "fdi.safetensors", "np") as file:
        return file.get_tensor("tokens"), file.metadata()["encoder_sha256"]


def test_an_adapter_from_own_pairs_is_trained_listed_and_used(
    models: dict[str, str], preset: Path, tmp_path: Path
) -> None:
    sha256, mine = find_encoder(models["encoder"]).sha256, tmp_path / "adapters"
    pairs = write_pairs(tmp_path / "pairs", "low_light", 14)
    summary = train.run(settings(pairs, preset, mine / "dusk", task="dusk", models=models, steps=3))
    assert summary["measured"]["n"] == summary["held_out"] > 0 and "gain_db" in summary["measured"]
    tokens_TD, made_with = _carried(mine / "dusk")
    assert tokens_TD.shape == SHAPE and tokens_TD.std() > 0 and made_with == sha256
    card = (mine / "dusk" / "README.md").read_text()
    assert sha256[:16] in card and "models.encoder=... models.base=... models.bank=..." in card
    listed = adapters.run(str(mine), StorageSettings())["adapters"]
    assert [(found["name"], found["encoder_sha256"]) for found in listed] == [("dusk", sha256)]

    assert describe_models(_custom(models, mine))["encoder"]["sha256"] == sha256  # what every job asks first
    always = RestoreSettings(tile_px=96, overlap_px=24)
    restorer = Restorer.from_settings(_custom(models, mine), ClassifySettings(), always)
    assert set(restorer.classifier.bank.names) == {"noise", "haze", "dusk"}
    assert restorer.classifier.bank.detail.thresholds.limit_K.shape == (3,)
    dark = [np.asarray(Image.open(path)) for path in sorted((pairs / "degraded").iterdir())]
    decisions = restorer.classify(dark)
    known = [i for i, decision in enumerate(decisions) if decision.route == "dusk"]
    assert len(known) >= 10, [decision.route for decision in decisions]
    first = known[:1]
    restored = restorer.restore([dark[i] for i in first], [decisions[i] for i in first])
    assert restored[0].shape == dark[0].shape and not np.array_equal(restored[0], dark[first[0]])

    shutil.copytree(preset / "adapters" / "noise", mine / "noise")  # of the compact encoder
    with pytest.raises(WeightsError, match=r"noise: made for encoder \w+, found encoder " + sha256[:12]):
        describe_models(_custom(models, mine))


def test_an_adapter_from_clean_pictures_takes_the_banks_fdi(
    models: dict[str, str], preset: Path, tmp_path: Path
) -> None:
    data = clean_data(tmp_path) | {"validation_fraction": 0.3}
    output = tmp_path / "adapters" / "noise"
    summary = train.run(settings(tmp_path, preset, output, task="noise", data=data, models=models, steps=3))
    assert summary["last"]["step"] == 3
    tokens_TD, made_with = _carried(output)
    np.testing.assert_array_equal(tokens_TD, ReferenceBank.from_pretrained(Path(models["bank"])).tokens_of("noise"))
    assert tokens_TD.shape == SHAPE and made_with == find_encoder(models["encoder"]).sha256
    assert json.loads((output / "config.json").read_text())["fdi_shape"] == list(SHAPE)
    assert list(describe_models(_custom(models, tmp_path / "adapters"))["adapters"]) == ["noise"]


def test_what_belongs_to_another_encoder_is_said_before_anything_starts(
    models: dict[str, str], preset: Path, tmp_path: Path
) -> None:
    pairs = write_pairs(tmp_path / "pairs", "haze", 12)
    compacts = models | {"bank": str(preset / "bank")}
    with pytest.raises(WeightsError, match=r"point models\.bank to a bank of this encoder"):
        train.run(settings(pairs, preset, tmp_path / "o", models=compacts))
    without = {key: models[key] for key in ("encoder", "base")}
    with pytest.raises(WeightsError, match=r"point models\.bank to a bank of this encoder"):
        train.run(settings(pairs, preset, tmp_path / "o", models=without))
    initial = str(preset / "adapters" / "haze")
    with pytest.raises(WeightsError, match=r"initial: .*haze \(made with encoder .*expected .* found "):
        train.run(settings(pairs, preset, tmp_path / "o", models=models, initial=initial))
    assert not (tmp_path / "o").exists()
