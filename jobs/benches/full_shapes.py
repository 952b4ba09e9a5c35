"""Models of full size with random weights for ``fdi bench``, section ``full_size``: shapes are data, tiny ones test it.

Configurations are those of the published checkpoints; nothing is read or fetched. Does NOT know what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.base import Base
from fdi_lib.models.checkpoint_parts import FAMILIES
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.stable_diffusion import StableDiffusion

_LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4, "layers_per_block": 2,
}  # fmt: skip


# What the manifest's own settings are compared with. Compiling takes minutes: the longest comes last.
WAYS: dict[str, dict[str, Any]] = {
    "as set": {},
    "VAE as dtype": {"vae": "dtype"},
    "and channels last": {"vae": "dtype", "channels_last": True},
    "and compiled": {"vae": "dtype", "channels_last": True, "compile": "default"},
    "and CUDA graphs": {"vae": "dtype", "channels_last": True, "compile": "reduce_overhead"},
}


@dataclass(frozen=True)
class BaseShape:
    """A Stable Diffusion checkpoint without its weights.

    Args:
        name: what the table calls it.
        family: name of its architecture in :data:`fdi_lib.models.checkpoint_parts.FAMILIES`.
        unet, vae: configurations of diffusers' models.
        prediction: what its UNet predicts.
        pooled: width of the pooled prompt; 0 has none.
        tokens: of the prompt.
    """

    name: str
    family: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    prediction: str = "epsilon"
    pooled: int = 0
    tokens: int = 77

    def networks(self, device: torch.device) -> tuple[UNet2DConditionModel, AutoencoderKL]:
        """UNet and VAE with fresh random weights, frozen, float32."""
        with torch.device(device):  # random numbers are drawn there: billions of them take minutes on a CPU
            made = UNet2DConditionModel(**self.unet), AutoencoderKL(**self.vae)
        for network in made:
            network.eval().requires_grad_(False)
        return made

    def scheduler(self) -> DDIMScheduler:
        """Its noise levels."""
        return DDIMScheduler(**_LEVELS, prediction_type=self.prediction, timestep_spacing="trailing")

    def conditions(
        self, unet: UNet2DConditionModel, batch: int, device: torch.device, dtype: torch.dtype
    ) -> dict[str, Any]:
        """What diffusers' pipelines tell the UNet of an empty prompt and of a picture of its own size."""
        side = float(unet.config["sample_size"] * 8)
        width = unet.config["cross_attention_dim"]
        told: dict[str, Any] = {
            "encoder_hidden_states": torch.zeros(batch, self.tokens, width, device=device, dtype=dtype)
        }
        if self.pooled:
            sizes = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=device, dtype=dtype)
            pooled = torch.zeros(batch, self.pooled, device=device, dtype=dtype)
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(batch, -1)}
        return told

    def base(self, device: torch.device) -> StableDiffusion:
        """All of it as a base, as it is loaded from a checkpoint."""
        unet, vae = self.networks(device)
        (family,) = (family for family in FAMILIES if family.name == self.family)
        prompt_1TD = torch.zeros(1, self.tokens, unet.config["cross_attention_dim"])
        pooled_1D = torch.zeros(1, self.pooled) if self.pooled else None
        base = StableDiffusion(unet, self.scheduler(), vae, family, prompt_1TD, pooled_1D)
        return base.eval().requires_grad_(False).to(device)


@dataclass(frozen=True)
class Shapes:
    """What the section runs on.

    Args:
        bases: measured one after the other.
        encoder: configuration of the encoder, as :class:`Encoder` takes it.
        matrix: side of the square matrices whose product is the device's rate.
        batches, steps: tiles of a forward pass (powers of two) and forward passes of a tile; every pair is measured.
        repeats: runs whose median is reported.
        images: of a batch of the encoder.
        ways: changes of the settings, by name; the first is measured for all batches, others for the largest.
        needs_gpu: whether it takes hours without one.
    """

    bases: tuple[BaseShape, ...]
    encoder: Mapping[str, Any]
    matrix: int = 8192
    batches: tuple[int, ...] = (1, 4, 16)
    steps: tuple[int, ...] = (1, 4)
    repeats: int = 3
    images: int = 32
    ways: Mapping[str, dict[str, Any]] = field(default_factory=lambda: WAYS)
    needs_gpu: bool = field(default=True, kw_only=True)

    def tiles(self, batch: int) -> int:
        """Tiles of one run: eight batches, as a unit of 32 images of four tiles gives at the largest."""
        return 8 * batch


SD21 = BaseShape(
    "SD 2.1",
    "stable-diffusion",
    {
        "sample_size": 96, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    _VAE | {"scaling_factor": 0.18215},
    "v_prediction",
)  # fmt: skip
SDXL = BaseShape(
    "SDXL",
    "stable-diffusion-xl",
    {
        "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    _VAE | {"scaling_factor": 0.13025},
    pooled=1280,
)  # fmt: skip
VIT_G: dict[str, Any] = {  # transformers' defaults are ViT-g's and the Q-Former's, but for 1e-10 as spread of weights
    "vision": {"image_size": 224, "initializer_range": 0.02}, "qformer": {"encoder_hidden_size": 1408},
    "query_tokens": 32, "crops": 4, "detail_gain": 0.0,
}  # fmt: skip
FULL = Shapes((SD21, SDXL), VIT_G)


def make_adapter(base: Base, encoder: Mapping[str, Any]) -> FDIAdapter:
    """An adapter of the size that fits a base, for the tokens of an encoder; it changes what the base says."""
    width = encoder["qformer"].get("hidden_size", 768)
    config = AdapterConfig.for_base(base, "noise", (2 * encoder["query_tokens"], width))
    adapter = FDIAdapter(config, torch.randn(config.fdi_shape, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if not parameter.any():  # what starts at zero would not be told from doing nothing
                parameter.normal_(std=0.01)
    return adapter.eval().requires_grad_(False)


def make_encoder(encoder: Mapping[str, Any], device: torch.device) -> Encoder:
    """An encoder with random weights; on a GPU its vision model is float16, as a checkpoint's is."""
    with torch.device(device):
        made = Encoder(dict(encoder)).eval().requires_grad_(False)
    if device.type == "cuda":
        made.vision_model.half()
    return made.to(device)
