"""Adapters that ask for it give tiles the tone of the whole image; the others, and small images, stay as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fdi_lib.core.decision import told
from fdi_lib.core.tone import whole_view
from fdi_lib.errors import WeightsError
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.presets import describe_models
from fdi_lib.models.restorer import Restorer

HAZE, NOISE = told(["haze"]), told(["noise"])
SIDE = 64


def _restorer(models: ModelSettings, batch: int = 2) -> Restorer:
    settings = RestoreSettings(tile_px=SIDE, overlap_px=16)
    return Restorer.from_settings(models, ClassifySettings(), settings, batch=batch)


@pytest.fixture(scope="module")
def toned(models: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    """The same preset; its adapter for haze takes the tone of the whole image."""
    folder = tmp_path_factory.mktemp("toned") / "adapters"
    shutil.copytree(str(models.adapters), folder)
    path = folder / "haze" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tone": "whole"}))
    return models.model_copy(update={"adapters": str(folder)})


def _image(*shape: int) -> np.ndarray:
    """Bright on one side, dark on the other, with some grain."""
    rng = np.random.default_rng(shape[0])
    ramp = np.linspace(40, 200, shape[1])[:, None] if len(shape) == 3 else np.linspace(40, 200, shape[1])
    return (ramp + rng.integers(0, 30, shape)).astype(np.uint8)


def test_the_tone_of_tiles_is_that_of_the_whole(models: ModelSettings, toned: ModelSettings) -> None:
    image = _image(150, 200, 3)
    apart, together = (_restorer(which).restore([image], [HAZE])[0].astype(float) for which in (models, toned))
    (view,) = _restorer(models).restore([whole_view(image, SIDE)], [HAZE])

    def distance(result: np.ndarray) -> float:
        return float(np.abs(whole_view(result.astype(np.float32), 12) - whole_view(view.astype(np.float32), 12)).mean())

    assert distance(together) < 0.6 * distance(apart)


@pytest.mark.parametrize(("shape", "decision"), [((SIDE, SIDE, 3), HAZE), ((150, 200, 3), NOISE)])
def test_small_images_and_other_adapters_stay(
    models: ModelSettings, toned: ModelSettings, shape: tuple[int, ...], decision: object
) -> None:
    image = _image(*shape)
    before, after = (_restorer(which).restore([image], [decision])[0] for which in (models, toned))  # type: ignore[list-item]
    np.testing.assert_array_equal(before, after)


def test_neither_batch_mates_nor_their_order_matter(toned: ModelSettings) -> None:
    images: list[np.ndarray] = [_image(150, 200, 3), _image(40, 50, 3), _image(90, 70)]
    restorer = _restorer(toned)
    together = restorer.restore(images, [HAZE] * 3)
    for image, expected in zip(images, together, strict=True):
        np.testing.assert_array_equal(restorer.restore([image], [HAZE])[0], expected)
        assert expected.shape == image.shape and expected.dtype == image.dtype


def test_a_view_too_narrow_to_see_anything_is_not_taken(models: ModelSettings, toned: ModelSettings) -> None:
    strip = _image(20, 300, 3)
    before, after = (_restorer(which).restore([strip], [HAZE])[0] for which in (models, toned))
    np.testing.assert_array_equal(before, after)


def test_the_tone_is_a_choice_and_part_of_what_a_run_is(models: ModelSettings, toned: ModelSettings) -> None:
    assert describe_models(models)["adapters"]["haze"] != describe_models(toned)["adapters"]["haze"]
    path = Path(str(toned.adapters), "haze", "config.json")
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"tone": "Whole"}))
    with pytest.raises(WeightsError, match=r"config\.json: tone: expected one of tiles, whole, found 'Whole'"):
        FDIAdapter.from_pretrained(path.parent)
    path.write_text(kept)
