"""The adapter leaves a base as it was until it has learned something, and says what doesn't fit."""

import json
import shutil

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from fdi_lib.errors import WeightsError
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.attach import attached, composed
from fdi_lib.models.base import Base


@pytest.fixture(scope="module")
def base() -> Base:
    torch.manual_seed(0)
    return Base.compact().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _predict(base: Base, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return base.predict_clean(base.encode(image), torch.tensor([400, 400]))


def test_a_fresh_adapter_leaves_the_base_bit_identical(base, image):
    adapter = FDIAdapter(AdapterConfig("noise", tuple(base.channels)), torch.randn(16, 128))
    bare = _predict(base, image)
    with torch.inference_mode():
        guidance = adapter.guidance(image)
    with attached(base, guidance):
        assert torch.equal(_predict(base, image), bare)
    with torch.inference_mode():
        assert torch.equal(adapter.refine(base.encode(image), bare), bare)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_it_does_where_the_base_has_half_weights(base, image, dtype):
    adapter = FDIAdapter(AdapterConfig("noise", tuple(base.channels)), torch.randn(16, 128))
    with base.computing_in(dtype):
        bare = _predict(base, image)
        with base.autocast(), torch.inference_mode():
            guidance = adapter.guidance(image)
        with attached(base, guidance):
            assert torch.equal(_predict(base, image), bare)
        with base.autocast(), torch.inference_mode():
            assert torch.equal(adapter.refine(base.encode(image), bare), bare)


def test_a_trained_adapter_changes_the_output_and_leaves_nothing_behind(base, image, preset):
    adapter = FDIAdapter.from_pretrained(preset / "adapters" / "noise")
    bare = _predict(base, image)
    with torch.inference_mode():
        guidance = adapter.guidance(image)
    with attached(base, guidance):
        assert not torch.equal(_predict(base, image), bare)
    assert torch.equal(_predict(base, image), bare)


def test_hooks_come_off_when_the_block_fails(base, image, preset):
    guidance = FDIAdapter.from_pretrained(preset / "adapters" / "noise").guidance(image)
    bare = _predict(base, image)
    with pytest.raises(RuntimeError, match="stop"), attached(base, guidance):
        raise RuntimeError("stop")
    assert torch.equal(_predict(base, image), bare)


def test_guidance_of_another_size_is_refused_never_ignored(base, image, preset):
    guidance = FDIAdapter.from_pretrained(preset / "adapters" / "noise").guidance(image[:, :, :32, :32])
    with pytest.raises(ValueError, match=r"down_blocks\.0.*guidance of shape"), attached(base, guidance):
        _predict(base, image)


def test_composing_one_adapter_at_weight_one_changes_nothing(image, preset):
    guidance = FDIAdapter.from_pretrained(preset / "adapters" / "haze").guidance(image)
    same = composed([(guidance, torch.ones(2))])
    for a, b in zip(guidance.additions, same.additions, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(guidance.modulations, same.modulations, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_weights_are_per_image(image, preset):
    guidance = FDIAdapter.from_pretrained(preset / "adapters" / "haze").guidance(image)
    scaled = composed([(guidance, torch.tensor([1.0, 0.0]))])
    assert torch.equal(scaled.additions[0][0], guidance.additions[0][0])
    assert not scaled.additions[0][1].any()


def test_without_attention_every_position_counts_alike(base, image):
    torch.manual_seed(0)
    adapter = FDIAdapter(AdapterConfig("noise", tuple(base.channels), parts="addition"), torch.randn(16, 128))
    assert not [name for name, _ in adapter.named_parameters() if "attention" in name or "to_k" in name]
    a_BCHW = torch.randn(1, 48, 6, 6)
    shuffled = a_BCHW.flatten(2)[..., torch.randperm(36)].unflatten(2, (6, 6))
    decoupling = adapter.decoupling[0]
    torch.testing.assert_close(decoupling(adapter.fdi_TD, a_BCHW), decoupling(adapter.fdi_TD, shuffled))
    guidance = adapter.guidance(image)
    sum(added.sum() for added in guidance.additions).backward()
    unused = [name for name, p in adapter.named_parameters() if p.grad is None and not name.startswith("refiner")]
    assert not unused and not guidance.modulations


def test_saving_and_loading_keeps_the_guidance_to_half_precision(image, preset, tmp_path):
    adapter = FDIAdapter.from_pretrained(preset / "adapters" / "jpeg")
    adapter.save_pretrained(tmp_path / "copy")
    again = FDIAdapter.from_pretrained(tmp_path / "copy")
    assert again.fingerprint() == adapter.fingerprint()
    assert again.config == adapter.config
    for a, b in zip(adapter.guidance(image).additions, again.guidance(image).additions, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["config.json", "adapter.safetensors", "fdi.safetensors"])
def test_a_missing_file_is_named(preset, tmp_path, name):
    shutil.copytree(preset / "adapters" / "noise", tmp_path / "noise")
    (tmp_path / "noise" / name).unlink()
    with pytest.raises(WeightsError, match=name):
        FDIAdapter.from_pretrained(tmp_path / "noise")


def test_weights_of_another_shape_are_named(preset, tmp_path):
    folder = tmp_path / "noise"
    shutil.copytree(preset / "adapters" / "noise", folder)
    weights = load_file(folder / "adapter.safetensors")
    weights.pop("add.0.weight")
    save_file(weights, folder / "adapter.safetensors")
    with pytest.raises(WeightsError, match=r"add\.0\.weight: expected .* found None"):
        FDIAdapter.from_pretrained(folder)


def test_config_is_plain_json(preset):
    config = json.loads((preset / "adapters" / "noise" / "config.json").read_text())
    assert config["task"] == "noise" and config["channels"] == [48, 96, 128, 160] and config["fdi_shape"] == [16, 128]


def test_an_adapter_comes_from_the_hub_by_its_id(preset, monkeypatch):
    asked = []

    def snapshot(repository, **options):
        asked.append((repository, options["revision"], options["allow_patterns"]))
        return str(preset / "adapters" / "noise")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert FDIAdapter.from_pretrained("archive/noise", revision="v1").config.task == "noise"
    assert asked == [("archive/noise", "v1", ["*.safetensors", "config.json"])], "no code, no pickles"


def test_an_id_that_cannot_be_had_is_named(monkeypatch):
    def nothing(repository, **_):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    with pytest.raises(WeightsError, match="archive/noise: no folder, and not to be had"):
        FDIAdapter.from_pretrained("archive/noise")
