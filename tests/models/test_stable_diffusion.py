"""Stable Diffusion checkpoints as bases: read strictly, told what diffusers' pipelines tell them, guided by hooks."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fdi_lib.errors import WeightsError
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter, Guidance
from fdi_lib.models.attach import attached, check_fits, composed
from fdi_lib.models.base import Base
from fdi_lib.models.stable_diffusion import StableDiffusion, load_base
from tests.tiny_checkpoints import KINDS

FDI = torch.randn(32, 768, generator=torch.Generator().manual_seed(2))
POINTS = {
    "sd15": (
        ["down_blocks.0.attentions.1", "down_blocks.1.attentions.1", "down_blocks.2.attentions.1",
         "down_blocks.3.resnets.1"],
        ["up_blocks.3.attentions.2", "up_blocks.2.attentions.2", "up_blocks.1.attentions.2", "up_blocks.0.resnets.2"],
    ),
    "sdxl": (
        ["down_blocks.0", "down_blocks.1.attentions.1", "down_blocks.2.attentions.1", "mid_block"],
        ["up_blocks.2.resnets.2", "up_blocks.1.attentions.2", "up_blocks.0.attentions.2"],
    ),
}  # fmt: skip
POINTS["sd21"] = POINTS["sd15"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _adapter(base: Base, stirred: bool = False, **use) -> FDIAdapter:
    torch.manual_seed(3)
    adapter = FDIAdapter(AdapterConfig.for_base(base, "noise", (32, 768), **use), FDI)
    if stirred:
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return adapter


def _predict(base: Base, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return base.predict_clean(base.encode(image), torch.tensor([400, 400]))


def test_shape_and_attach_points_are_the_architecture_s(bases, kind):
    base = bases[kind]
    assert (base.encoder_points, base.decoder_points) == POINTS[kind]
    assert base.channels == ([16, 32, 64, 64])
    assert (base.latent_factor, base.latent_channels) == (8, 4)
    assert base.multiple_px == (32 if kind == "sdxl" else 64)
    assert base.prediction == ("v_prediction" if kind == "sd21" else "epsilon")
    assert not any(p.requires_grad for p in base.parameters()) and not base.training


def test_the_empty_prompt_is_embedded_as_diffusers_pipelines_do(folders, bases, kind):
    folder, base = folders[kind], bases[kind]
    parts = {
        "unet": base.unet,
        "vae": base.vae,
        "scheduler": base.scheduler,
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }
    with torch.no_grad():
        if kind == "sdxl":
            parts |= {
                "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
                "tokenizer_2": CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
            }
            pipeline = StableDiffusionXLPipeline(**parts)
            prompt, _, pooled, _ = pipeline.encode_prompt("", device="cpu", do_classifier_free_guidance=False)
            torch.testing.assert_close(base.pooled, pooled)
        else:
            nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            pipeline = StableDiffusionPipeline(**parts, **nothing)
            prompt = pipeline.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(base.prompt, prompt)
    assert "text_encoder" not in dict(base.named_modules())


def test_the_latent_is_the_scaled_mean_and_the_same_every_time(folders, bases, kind, image):
    base, vae = bases[kind], AutoencoderKL.from_pretrained(folders[kind] / "vae")
    with torch.no_grad():
        expected = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
        decoded = vae.decode(expected / vae.config.scaling_factor).sample
    assert torch.equal(base.encode(image), base.encode(image))
    torch.testing.assert_close(base.encode(image), expected)
    torch.testing.assert_close(base.decode(base.encode(image)), decoded)
    assert not base.encode(image.clone().requires_grad_()).requires_grad


def test_a_picture_is_not_the_vae_s_own_output(bases, kind, image, monkeypatch):
    """What a CUDA graph returned is written over by its next run, while pictures still wait to be blended."""
    base = bases[kind]
    latent, reused = base.encode(image), torch.zeros_like(image)
    monkeypatch.setattr(base.vae, "decode", lambda *args, **kwargs: (reused.add_(1),))
    first, second = base.decode(latent), base.decode(latent)
    assert (first == 1).all() and (second == 2).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_vae_keeps_full_precision_where_it_asks_for_it(bases, image, dtype):
    base = bases["sdxl"]
    exact = base.decode(base.encode(image))
    with torch.autocast("cpu", dtype):
        assert torch.equal(base.decode(base.encode(image)), exact)


def test_the_prediction_becomes_the_clean_latent_that_diffusers_says(bases, kind, image):
    base = bases[kind]
    z = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        out = base.unet(z, 400, **base._condition(z)).sample
        ours = base.predict_clean(z, torch.tensor([400, 400]))
    config = {"prediction_type": base.prediction, "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, **config)
    scheduler.set_timesteps(1000)
    torch.testing.assert_close(ours, scheduler.step(out, 400, z).pred_original_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cast", [False, True], ids=["autocast", "weights"])
def test_a_fresh_adapter_leaves_the_base_bit_identical(folders, bases, kind, image, dtype, cast):
    base = load_base(folders[kind]) if cast else bases[kind]
    if cast:
        base.exact_vae = False
        base.compute_in(dtype)
    adapter = _adapter(base)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), torch.inference_mode():
        guidance = adapter.guidance(image)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32 and not cast):
        bare = _predict(base, image)
        assert bare.dtype == torch.float32 and bare.isfinite().all()
        with attached(base, guidance):
            assert torch.equal(_predict(base, image), bare)
        assert torch.equal(_predict(base, image), bare)
        with torch.inference_mode():
            assert torch.equal(adapter.refine(bare, bare), bare)


def test_every_hook_changes_the_output_by_itself_and_comes_off(bases, kind, image):
    base = bases[kind]
    bare = _predict(base, image)
    with torch.inference_mode():
        guidance = _adapter(base, stirred=True).guidance(image)
    assert len(guidance.additions) == 4 and len(guidance.modulations) == (3 if kind == "sdxl" else 4)
    for i in range(4):
        only = [a if i == j else torch.zeros_like(a) for j, a in enumerate(guidance.additions)]
        with attached(base, Guidance(only, [])):
            assert not torch.equal(_predict(base, image), bare), base.encoder_points[i]
    for i in range(len(guidance.modulations)):
        kept = [m if i == j else tuple(torch.zeros_like(x) for x in m) for j, m in enumerate(guidance.modulations)]
        with attached(base, Guidance([], kept)):
            assert not torch.equal(_predict(base, image), bare), base.decoder_points[i]
    assert torch.equal(_predict(base, image), bare)


def test_additions_are_those_of_diffusers_own_argument(bases, kind, image):
    base = bases[kind]
    with torch.inference_mode():
        additions = _adapter(base, stirred=True).guidance(image).additions
        z, t = base.encode(image), torch.tensor([400, 400])
        with attached(base, Guidance(additions, [])):
            ours = base.unet(z, t, **base._condition(z)).sample
        consumed = [a.clone() for a in additions]
        theirs = base.unet(z, t, **base._condition(z), down_intrablock_additional_residuals=consumed).sample
    assert not consumed
    torch.testing.assert_close(ours, theirs)


def test_names_are_recorded_and_another_base_s_are_refused(bases, kind, tmp_path):
    adapter = _adapter(bases[kind], stirred=True)
    adapter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["encoder_points"] == POINTS[kind][0] and config["decoder_points"] == POINTS[kind][1]
    again = FDIAdapter.from_pretrained(tmp_path)
    assert again.config == adapter.config and again.fingerprint() == adapter.fingerprint()
    check_fits(again.config, bases[kind])
    other = bases["sd15" if kind == "sdxl" else "sdxl"]
    with pytest.raises(WeightsError, match=r"adapter noise: expected a base with encoder blocks .*found"):
        check_fits(again.config, other)


def test_held_constants_change_no_bit(bases, image):
    adapter = _adapter(bases["sd15"], stirred=True).eval()
    with torch.inference_mode():
        before = adapter.guidance(image)
        adapter.hold_constants().guidance(image)
        after = adapter.guidance(image)
    assert adapter.decoupling[0].held
    assert all(torch.equal(a, b) for a, b in zip(before.additions, after.additions, strict=True))
    for a, b in zip(before.modulations, after.modulations, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("parts", "additions", "modulations"), [("modulator", 0, 4), ("decoupling", 4, 0), ("addition", 4, 0)]
)
def test_parts_for_ablations(bases, image, parts, additions, modulations):
    base = bases["sd21"]
    bare = _predict(base, image)
    for stirred in (False, True):
        adapter = _adapter(base, stirred=stirred, parts=parts)
        with torch.inference_mode():
            guidance = composed([(adapter.guidance(image), torch.ones(2))])
        assert (len(guidance.additions), len(guidance.modulations)) == (additions, modulations)
        with attached(base, guidance):
            assert torch.equal(_predict(base, image), bare) is not stirred


def test_literal_forms_are_the_published_equations(bases, image):
    base = bases["sd21"]
    adapter = _adapter(base, stirred=True, modulator="literal", addition="literal")
    with torch.inference_mode():
        guidance = adapter.guidance(image)
        seen = {}
        block = base.unet.up_blocks[0].resnets[2]
        with attached(base, Guidance(guidance.additions, [])):
            handle = block.register_forward_hook(lambda module, inputs, output: seen.update(before=output))
            _predict(base, image)
            handle.remove()
        with attached(base, guidance):
            handle = block.register_forward_hook(lambda module, inputs, output: seen.update(after=output))
            _predict(base, image)
            handle.remove()
        h, gamma, beta = guidance.modulations[3]
        gated = seen["before"] * torch.sigmoid(h)
        mean, variance = gated.mean((2, 3), keepdim=True), gated.var((2, 3), unbiased=False, keepdim=True)
        torch.testing.assert_close(seen["after"], gamma * (gated - mean) / (variance + 1e-5).sqrt() + beta)
        safe = _adapter(base, stirred=True).guidance(image)
    with pytest.raises(WeightsError, match="literal and a safe modulator"):
        composed([(guidance, torch.ones(2)), (safe, torch.ones(2))])
    half = composed([(guidance, torch.full((2,), 0.5)), (guidance, torch.full((2,), 0.5))])
    torch.testing.assert_close(half.modulations[0][1], guidance.modulations[0][1])
    with pytest.raises(WeightsError, match="literal addition needs widths"):
        _adapter(base, addition="literal", widths=(8, 8, 8, 8))


def test_the_adapter_of_sd21_has_the_published_size():
    with torch.device("meta"):
        unet = UNet(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True, in_channels=4, sample_size=96,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2,
        )  # fmt: skip
    from fdi_lib.models.checkpoint_parts import FAMILIES

    base = StableDiffusion(unet, DDIMScheduler(), vae, FAMILIES[0], torch.zeros(1, 77, 1024), None)
    with torch.device("meta"):
        adapter = FDIAdapter(AdapterConfig.for_base(base, "noise", (32, 768)))
    count = sum(p.numel() for p in adapter.parameters())
    assert base.channels == [320, 640, 1280, 1280] and adapter.trunk[0].conv.in_channels == 3 * 8**2
    assert 43e6 < count < 50e6
    assert len(adapter.trunk[0].residuals) == 1
