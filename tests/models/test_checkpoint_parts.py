"""Stable Diffusion checkpoints are read strictly; what doesn't fit is named with file, expected and found."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fdi_lib.errors import WeightsError
from fdi_lib.models.base import Base
from fdi_lib.models.base_files import base_files, base_sha256, fetch_base
from fdi_lib.models.stable_diffusion import StableDiffusion, load_base
from tests.tiny_checkpoints import save_checkpoint


@pytest.fixture
def copy(folders, tmp_path) -> Path:
    """A copy of the SD 1.5-shaped checkpoint, to be spoilt."""
    return Path(shutil.copytree(folders["sd15"], tmp_path / "copy"))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _predict(base: Base, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return base.predict_clean(base.encode(image).to(base.unet.dtype), torch.tensor([400, 400]))


def _edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_half_precision_files_serve_where_there_are_no_other(copy, bases, image):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path.with_suffix(".fp16.safetensors").as_posix())
    whole = base_sha256(copy)
    path.unlink()
    assert base_files(copy)[0].name == "diffusion_pytorch_model.fp16.safetensors" and base_sha256(copy) != whole
    torch.testing.assert_close(_predict(load_base(copy), image), _predict(bases["sd15"], image), rtol=0.05, atol=0.05)


def test_names_of_older_makers_are_understood(copy, bases, image):
    vae, text = copy / "vae/diffusion_pytorch_model.safetensors", copy / "text_encoder/model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(vae)
    for new, name in old.items():
        tensors = {key.replace(new, name): value for key, value in tensors.items()}
    assert any(".proj_attn." in key for key in tensors)
    save_file(tensors, vae)
    words = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(text).items()}
    save_file(words | {"text_model.embeddings.position_ids": torch.arange(11)[None]}, text)
    base = load_base(copy)
    assert base.fingerprint() == bases["sd15"].fingerprint()
    assert torch.equal(_predict(base, image), _predict(bases["sd15"], image))


def test_the_hash_covers_every_part_and_is_checked(folders, copy):
    sha256 = base_sha256(copy)
    assert sha256 == base_sha256(folders["sd15"]) and len({base_sha256(f) for f in folders.values()}) == 3
    assert load_base(copy, sha256=sha256).name == "stable-diffusion"
    with pytest.raises(WeightsError, match=f"expected the base with sha256 {'0' * 64}, found {sha256}"):
        load_base(copy, sha256="0" * 64)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickles_and_missing_weights_are_refused(copy, part):
    path = next((copy / part).glob("*.safetensors"))
    path.unlink()
    with pytest.raises(WeightsError, match=f"{path.name}: not found"):
        fetch_base(str(copy))
    (copy / part / "weights.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"only weights\.bin, which may hold code"):
        fetch_base(str(copy))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_every_tensor_must_be_there(copy, part):
    path = next((copy / part).glob("*.safetensors"))
    tensors = load_file(path)
    gone = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != gone}, path)
    with pytest.raises(WeightsError, match=rf"{path.name}: 1 tensors don't fit; {gone}: expected .* found None"):
        load_base(copy)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 4}, "expected down_block_types .* found"),
        ("unet/config.json", {"addition_embed_type": "text"}, "expected addition_embed_type None, found text"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "expected class_embed_type None, found timestep"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "expected a prediction_type of .* found flow"),
        ("scheduler/scheduler_config.json", {"beta_schedule": None}, "expected a schedule of noise"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "expected v_prediction"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "expected latents_mean None"),
        (
            "text_encoder/config.json",
            {"architectures": ["T5EncoderModel"]},
            "expected a text encoder of .* found T5EncoderModel",
        ),
    ],
)
def test_another_architecture_is_refused_by_file_and_key(copy, file, values, said):
    _edit(copy / file, **values)
    with pytest.raises(WeightsError, match=rf"{file}: {said}"):
        load_base(copy)


def test_a_missing_block_is_named(tmp_path):
    folder = save_checkpoint(tmp_path, "sd15", layers_per_block=1)
    with pytest.raises(WeightsError, match=r"expected a block named down_blocks\.0\.attentions\.1"):
        load_base(folder)


def test_a_unet_of_another_latent_or_prompt_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"unet/config\.json: expected in_channels 4, found 9"):
        load_base(save_checkpoint(tmp_path / "inpainting", "sd15", in_channels=9))
    with pytest.raises(WeightsError, match=r"unet/config\.json: expected cross_attention_dim 32, found 48"):
        load_base(save_checkpoint(tmp_path / "prompt", "sd15", cross_attention_dim=48))


@pytest.mark.parametrize("gone", ["unet", "scheduler", "vae", "tokenizer", "text_encoder"])
def test_a_missing_part_is_named(copy, gone):
    shutil.rmtree(copy / gone)
    with pytest.raises(WeightsError, match="found neither" if gone == "unet" else f"{gone}/.*not found"):
        load_base(copy)


def test_a_checkpoint_comes_from_the_hub_by_its_id_without_pickles(folders, monkeypatch):
    asked = []

    def snapshot(repository, **options):
        asked.append((repository, options["revision"], options["allow_patterns"]))
        return str(folders["sd15"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert isinstance(load_base("makers/model", "abc"), StableDiffusion)
    [(repository, revision, patterns)] = asked
    assert (repository, revision) == ("makers/model", "abc")
    assert "unet/diffusion_pytorch_model.safetensors" in patterns
    assert all(pattern.endswith((".json", ".safetensors", ".txt")) for pattern in patterns)


def test_a_shifted_latent(folders, tmp_path, bases, image):
    folder = Path(shutil.copytree(folders["sd15"], tmp_path / "shifted"))
    _edit(folder / "vae" / "config.json", shift_factor=0.5)
    torch.testing.assert_close(load_base(folder).encode(image), bases["sd15"].encode(image) - 0.5 * 0.18215)
