"""The restorer keeps shapes and dtypes, and its result depends on neither batch mates, batch size nor memory."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fdi_lib.core.decision import Decision
from fdi_lib.errors import CapacityError, ManifestError, WeightsError
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.bank import ReferenceBank
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


@pytest.mark.parametrize(("fits", "note"), [(8, ""), (2, "in batches of 2 tiles, not 8, for lack of memory")])
def test_a_batch_that_does_not_fit_is_halved_and_the_row_says_so(models, monkeypatch, fits, note):
    small, large = _restorer(models, batch=2), _restorer(models, batch=8)
    images = [_image(100, 90, 3), _image(64, 64, 3)]
    decode = large.base.decode

    def short_of_memory(latent):
        if len(latent) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latent)

    monkeypatch.setattr(large.base, "decode", short_of_memory)
    made = large.restore_each(images, [NOISE, NOISE])
    assert [one.note for one in made] == [note, note]
    for one, expected in zip(made, small.restore(images, [NOISE, NOISE]), strict=True):
        assert np.abs(one.pixels.astype(int) - expected).max() <= 1
    assert [one.note for one in large.restore_each(images[:1], [NOISE])] == [note]  # it stays so
    assert large.restore_each(images[:1], [Decision("clean")])[0].note == ""
    fits = 0
    with pytest.raises(CapacityError, match=r"one tile of 64 px .* lower restore\.tile_px"):
        large.restore_each(images, [NOISE, NOISE])


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


def test_what_is_set_for_one_adapter_goes_before_what_is_set_for_all(models):
    own = {"noise": {"start_t": 0.9, "steps": 3, "guidance_window": 0.5}, "haze": {"init": "noised_input"}}
    restorer = _restorer(models, RestoreSettings(tile_px=64, overlap_px=16, steps=2, adapters=own))
    noise, haze, jpeg = (restorer.schedule((name,)) for name in ("noise", "haze", "jpeg"))
    assert (noise.init, noise.start_t, noise.steps, noise.guided_steps) == ("input", 0.9, 3, 2)
    assert (haze.init, haze.start_t, haze.steps) == ("noised_input", 0.5, 2)
    assert (jpeg.init, jpeg.start_t, jpeg.steps) == ("input", 0.5, 2)
    together = restorer.schedule(("haze", "noise"))
    assert (together.init, together.start_t, together.steps) == ("noised_input", 0.9, 3)
    assert restorer.steps_of(TWO) == 5


def test_settings_for_an_adapter_that_is_not_there_are_refused(models):
    with pytest.raises(ManifestError, match=r"restore\.adapters\.mould"):
        _restorer(models, RestoreSettings(tile_px=64, overlap_px=16, adapters={"mould": {}}))


def _half_precision(models: ModelSettings, factor: float, dtype: str = "fp16") -> Restorer:
    """A restorer whose noise adapter adds ``factor`` times what it was made to."""
    restorer = _restorer(models, SETTINGS.model_copy(update={"dtype": dtype}), batch=2)
    with torch.no_grad():
        for addition in restorer.adapter("noise").add:
            addition.weight.mul_(factor)
    return restorer


def test_what_is_not_finite_is_computed_once_more_in_higher_precision(models):
    image, small = _image(64, 64, 3), _image(40, 50)
    restorer, exact = _half_precision(models, 1e6), _half_precision(models, 1e6, "fp32")
    made = restorer.restore_each([image, small], [NOISE, NOISE])
    expected = exact.restore([image, small], [NOISE, NOISE])
    for one, right in zip(made, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, right)  # the compact base's weights are float16 on disk: none is lost
        assert "float32" in one.note and "float16" in one.note and one.finite == 1
    assert restorer.base.dtype == torch.float16 and not any(p.is_inference() for p in restorer.base.parameters())
    single = _half_precision(models, 1.0).restore_each([image], [NOISE])[0]
    assert single.note == "" and single.pixels is not None


def test_what_stays_not_finite_is_no_picture_and_its_mates_are(models):
    restorer = _half_precision(models, float("nan"))
    image = _image(64, 64, 3)
    decisions = [NOISE, Decision("single", (("haze", 1.0),)), Decision("clean")]
    bad, good, same = restorer.restore_each([image] * 3, decisions)
    assert bad.pixels is None and bad.finite < 1 and bad.decision == NOISE
    assert good.pixels is not None and same.pixels is image
    with pytest.raises(FloatingPointError, match="route noise"):
        restorer.restore([image], [NOISE])


class _Looks:
    """A classifier that says what a test wants, one answer a look."""

    def __init__(self, *answers: Decision) -> None:
        self.answers, self.shown = list(answers), []

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        self.shown.append(images)
        return [self.answers.pop(0) for _ in images]


THREE = Decision("mixture", (("jpeg", 1.0), ("noise", 0.5), ("haze", 1.0)))


def test_after_each_step_the_picture_is_looked_at_again(models, restorer):
    again = _restorer(models, SETTINGS.model_copy(update={"redetect": True}), batch=2)
    haze = Decision("single", (("haze", 1.0),), amplitudes={"haze": 3.0})
    again.classifier = looks = _Looks(haze, Decision("clean"), haze, haze)
    a, b = _image(64, 64, 3), _image(90, 64)
    first, second = again.restore_each([a, b], [THREE, THREE])
    # Both looked at after jpeg: a goes on with haze, b is clean. After haze, a's noise is still to be done.
    assert (first.decision.composition, second.decision.composition) == ("jpeg:1.00>haze:1.00>noise:0.50", "jpeg:1.00")
    assert first.note == "" and second.note == "looks clean after jpeg:1.00: left out noise, haze"
    assert [len(images) for images in looks.shown] == [2, 1]
    assert looks.shown[0][1].shape == b.shape and looks.shown[0][1].dtype == b.dtype
    np.testing.assert_array_equal(first.pixels, restorer.restore([a], [first.decision])[0])
    np.testing.assert_array_equal(second.pixels, restorer.restore([b], [second.decision])[0])


def test_without_redetection_nobody_looks_again(models):
    plain = _restorer(models, batch=2)
    plain.classifier = _Looks()
    assert plain.restore_each([_image(64, 64, 3)], [THREE])[0].decision == THREE


def test_looking_again_does_not_depend_on_batch_mates(models):
    again = _restorer(models, SETTINGS.model_copy(update={"redetect": True}), batch=2)
    images = [_image(64, 64, 3), _image(100, 90, 3), _image(30, 64)]
    together = again.restore_each(images, [THREE] * 3)
    for image, one in zip(images, together, strict=True):
        alone = again.restore_each([image], [THREE])[0]
        assert alone.decision == one.decision
        np.testing.assert_array_equal(alone.pixels, one.pixels)


def test_the_round_trip_is_lossless_and_fidelity_alone_is_the_refiner_alone(restorer):
    images = [_image(64, 64, 3), _image(33, 70), _image(100, 130, 3, dtype=np.uint16)]
    for back, image in zip(restorer.round_trip(images), images, strict=True):
        np.testing.assert_array_equal(back, image)
    refined = restorer.fidelity_only(images, ("noise",))
    for out, image in zip(refined, images, strict=True):
        assert out.shape == image.shape and out.dtype == image.dtype and not np.array_equal(out, image)
    adapter = restorer.adapter("noise")
    x = torch.from_numpy(images[0].astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.inference_mode():
        latent = restorer.base.encode(x)
        expected = (restorer.base.decode(adapter.refine(latent, latent))[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(expected.clamp(0, 255).round().numpy() - refined[0]).max() <= 1


def test_a_banks_monochrome_part_is_part_of_its_identity(models, preset, tmp_path):
    bank = ReferenceBank.from_pretrained(preset / "bank")
    replace(bank, monochrome=bank).save_pretrained(tmp_path / "bank")
    settings = models.model_copy(update={"bank": str(tmp_path / "bank")})
    described = describe_models(settings)["bank"]
    assert described["monochrome_sha256"] == described["sha256"] != described["monochrome_config_sha256"]
    assert "monochrome_sha256" not in describe_models(models)["bank"] and described["config_sha256"]
    shutil.rmtree(tmp_path / "bank" / "monochrome")
    with pytest.raises(WeightsError, match=r"monochrome/bank\.safetensors: not found; copy the bank's folder"):
        describe_models(settings)
