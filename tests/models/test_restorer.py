"""The restorer keeps shapes and dtypes, and its result depends on neither batch mates, batch size nor memory."""

import numpy as np
import pytest

from fdi_lib.core.decision import Decision
from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.presets import describe_models
from fdi_lib.models.restorer import Restorer

RNG = np.random.default_rng(0)
SETTINGS = RestoreSettings(tile_px=64, overlap_px=16)
NOISE = Decision("single", (("noise", 1.0),))
TWO = Decision("mixture", (("noise", 1.0), ("haze", 1.0)))
BOTH = Decision("mixture", (("haze", 0.5), ("noise", 0.7)), "composite")


def _restorer(models: ModelSettings, settings: RestoreSettings = SETTINGS, **kwargs: int) -> Restorer:
    return Restorer.from_settings(models, ClassifySettings(), settings, **kwargs)


@pytest.fixture(scope="module")
def restorer(models: ModelSettings) -> Restorer:
    return _restorer(models, batch=2)


def _image(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.mark.parametrize("decision", [NOISE, TWO, BOTH])
@pytest.mark.parametrize("shape", [(64, 64, 3), (100, 130, 3), (33, 70), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_shape_and_dtype_stay(restorer, decision, shape, dtype):
    image = _image(*shape, dtype=dtype)
    out = restorer.restore([image], [decision])[0]
    assert out.shape == image.shape and out.dtype == image.dtype
    assert not np.array_equal(out, image)


def test_an_image_without_adapters_comes_back_as_it_is(restorer):
    image = _image(50, 60, 3)
    np.testing.assert_array_equal(restorer.restore([image], [Decision("clean")])[0], image)


@pytest.mark.parametrize("decision", [NOISE, TWO, BOTH])
def test_batch_mates_do_not_matter(restorer, decision):
    images = [_image(64, 64, 3), _image(100, 90, 3), _image(30, 64), _image(64, 64, 3)]
    together = restorer.restore(images, [decision] * 4)
    for image, out in zip(images, together, strict=True):
        np.testing.assert_array_equal(restorer.restore([image], [decision])[0], out)


def test_noise_is_keyed_by_image(models):
    restorer = _restorer(models, RestoreSettings(tile_px=64, overlap_px=16, init="noised_input"))
    image = _image(64, 64, 3)
    a, same, b = (restorer.restore([image], [NOISE], [key])[0] for key in (1, 1, 2))
    np.testing.assert_array_equal(a, same)
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("init", ["input", "noised_input", "ddim_inversion", "pure_noise"])
def test_every_start_and_several_steps_run(models, init):
    settings = RestoreSettings(tile_px=64, overlap_px=16, init=init, steps=3, guidance_window=0.4)
    restorer = _restorer(models, settings)
    assert restorer.schedule(("noise",)).guided_steps == 2
    assert restorer.steps_of(TWO) == 6
    assert restorer.restore([_image(64, 64, 3)], [NOISE])[0].shape == (64, 64, 3)


def test_adapters_beyond_the_limit_make_room_for_each_other(models):
    restorer = _restorer(models, resident_adapters=1)
    image = _image(64, 64, 3)
    for name, loads in (("noise", 1), ("noise", 1), ("haze", 2), ("noise", 3)):
        restorer.restore([image], [Decision("single", ((name, 1.0),))])
        assert restorer.loads == loads


def test_fidelity_path_can_be_switched_off(models, restorer):
    bare = _restorer(models, SETTINGS.model_copy(update={"fidelity": False}))
    image = _image(64, 64, 3)
    assert not np.array_equal(bare.restore([image], [NOISE])[0], restorer.restore([image], [NOISE])[0])


def test_lower_precision_is_a_setting_and_stays_near(models, restorer):
    half = _restorer(models, SETTINGS.model_copy(update={"dtype": "bf16"}), batch=2)
    image = _image(64, 64, 3)
    a, b = (r.restore([image], [NOISE])[0].astype(int) for r in (restorer, half))
    assert 0 < np.abs(a - b).max() < 40


def test_classifying_gives_one_decision_an_image(restorer):
    decisions = restorer.classify([_image(120, 100, 3), _image(64, 64)])
    assert len(decisions) == 2
    assert set(decisions[0].scores) == {"haze", "jpeg", "noise"}


def test_a_tile_that_does_not_fit_the_base_is_refused(models):
    with pytest.raises(ManifestError, match="multiple of 16"):
        _restorer(models, RestoreSettings(tile_px=72, overlap_px=16))


def test_an_adapter_of_another_base_is_refused(models, preset, tmp_path):
    other = tmp_path / "base"
    other.mkdir()
    from fdi_lib.models.base import Base

    Base.compact().save_pretrained(other)
    with pytest.raises(WeightsError, match="made for base"):
        describe_models(models.model_copy(update={"base": models.base.model_copy(update={"uri": str(other)})}))


def test_a_preset_without_weights_is_refused(models, tmp_path):
    with pytest.raises(WeightsError, match=r"bank\.safetensors not found"):
        describe_models(models.model_copy(update={"bank": str(tmp_path)}))


def test_the_constructor_takes_the_four_folders(preset):
    restorer = Restorer(
        encoder=preset / "encoder", base=preset / "base", bank=preset / "bank", adapters=preset / "adapters"
    )
    assert set(restorer.adapter_hashes) == {"haze", "jpeg", "noise"}


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.float32), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8), np.uint8), "a.png"]
)
def test_what_is_no_image_is_refused_by_number(restorer, image):
    good = _image(8, 8)
    with pytest.raises(ValueError, match="image 1 is"):
        restorer.classify([good, image])
    with pytest.raises(ValueError, match="image 1 is"):
        restorer.restore([good, image], [NOISE, NOISE])


def test_lists_are_lists_and_of_one_length(restorer):
    assert restorer.classify([]) == []
    with pytest.raises(ValueError, match="one array"):
        restorer.classify(_image(8, 8, 3))
    with pytest.raises(ValueError, match="2 images, but 1 decisions"):
        restorer.restore([_image(8, 8), _image(8, 8)], [NOISE])
