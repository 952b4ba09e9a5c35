"""The frozen base: a diffusers UNet, the latent space it works in, and its noise schedule.

The compact base is unconditional and works on a lossless latent (pixel-unshuffle in the VAE's place); checkpoints
with a VAE and text encoders are in ``stable_diffusion.py``, behind the same interface.
Every tensor suffix: B batch, C channels, H and W height and width (of the tensor at hand).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional as F

from fdi_lib.errors import WeightsError
from fdi_lib.models.attach import Attachment
from fdi_lib.models.configs import read_config
from fdi_lib.models.weights import fingerprint, load_strictly, save_half

_UNSHUFFLE = 2  # pixel-unshuffle factor of the compact latent: 3 channels become 12
PREDICTIONS = ("epsilon", "v_prediction")

COMPACT_UNET = {
    "sample_size": 64, "in_channels": 12, "out_channels": 12, "block_out_channels": [48, 96, 128, 160],
    "layers_per_block": 1, "norm_num_groups": 16, "cross_attention_dim": 32, "attention_head_dim": 8,
    # No attention: cost stays linear in pixels and a result does not depend on how large a tile is looked at.
    "down_block_types": ["DownBlock2D"] * 4, "up_block_types": ["UpBlock2D"] * 4, "mid_block_type": "UNetMidBlock2D",
}  # fmt: skip
COMPACT_SCHEDULE = {
    "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
    "clip_sample": False, "set_alpha_to_one": True, "rescale_betas_zero_snr": False, "timestep_spacing": "trailing",
}  # fmt: skip


@dataclass(frozen=True)
class AttachPoints:
    """Where adapters attach: names of modules of the UNet.

    Args:
        encoder: what is added to, finest first.
        decoder: what is modulated, finest first; ``decoder[i]`` belongs to ``encoder[i]``, the last may have none.
        channels: of ``encoder[i]``'s output, and of ``decoder[i]``'s.
        scales_px: image pixels that a position of ``encoder[i]``'s output covers, a side.
    """

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    channels: tuple[int, ...]
    scales_px: tuple[int, ...]


class Base(nn.Module):
    """A frozen denoising UNet together with its latent transform and schedule; this one's latent is the compact one.

    Attach points for adapters are names of modules of :attr:`unet`; see ``encoder_points`` and ``decoder_points``.

    Raises:
        WeightsError: the UNet lacks a module that adapters attach to, or the schedule predicts something unknown.
    """

    name: str = "compact"
    latent_factor: int = _UNSHUFFLE
    latent_channels: int = 3 * _UNSHUFFLE**2
    exact_vae: bool = True  # whether a VAE that asks for full precision gets it in lower ones; no matter without a VAE
    alphas: torch.Tensor  # cumulative products of the schedule, float32, one a time step

    def __init__(self, unet: UNet2DConditionModel, scheduler: DDIMScheduler, points: AttachPoints) -> None:
        super().__init__()
        self.unet, self.scheduler, self.points = unet, scheduler, points
        self.register_buffer("alphas", scheduler.alphas_cumprod.float(), persistent=False)
        self.prediction = str(scheduler.config["prediction_type"])
        if self.prediction not in PREDICTIONS:
            raise WeightsError(f"scheduler: expected a prediction_type of {PREDICTIONS}, found {self.prediction}")
        modules = {name for name, _ in unet.named_modules()}
        for point in (*points.encoder, *points.decoder):
            if point not in modules:
                raise WeightsError(f"unet: expected a block named {point} for adapters to attach to, found none")
        self.attachment = Attachment(unet, points.encoder, points.decoder)

    @property
    def encoder_points(self) -> list[str]:
        """Names of the modules that are added to, finest first."""
        return list(self.points.encoder)

    @property
    def decoder_points(self) -> list[str]:
        """Names of the modules that are modulated, finest first."""
        return list(self.points.decoder)

    @property
    def channels(self) -> list[int]:
        """Channels of the encoder points."""
        return list(self.points.channels)

    @classmethod
    def compact(cls) -> Base:
        """Return the compact base with fresh random weights."""
        return Base._of(COMPACT_UNET, COMPACT_SCHEDULE)

    @staticmethod
    def _of(config: dict[str, Any], schedule: dict[str, Any]) -> Base:
        unet = UNet2DConditionModel.from_config(config)
        channels = tuple(unet.config["block_out_channels"])
        levels, layers = len(channels), int(unet.config["layers_per_block"])
        # The last resnet of each block: diffusers' own residual inputs come after the downsampler in plain blocks,
        # so the finest level would get nothing.
        points = AttachPoints(
            tuple(f"down_blocks.{i}.resnets.{layers - 1}" for i in range(levels)),
            tuple(f"up_blocks.{levels - 1 - i}.resnets.{layers}" for i in range(levels)),
            channels,
            tuple(_UNSHUFFLE * 2**i for i in range(levels)),
        )
        return Base(unet, DDIMScheduler.from_config(schedule), points)

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet's weights: what it computes in. Images, latents and noise levels are float32 whatever it is."""
        return self.unet.dtype

    def compute_in(self, dtype: torch.dtype) -> None:
        """Cast the networks' weights, once: autocast would cast them at each pass, and norms to float32 and back."""
        nn.Module.to(self.unet, dtype)  # diffusers' own warns of modules to be kept in float32, of which there are none

    @contextmanager
    def computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Within the block networks compute in another arithmetic, from the weights they have.

        Float32 takes no second copy of them: bf16 and fp16 are exact in it, so that the way back gives the same bits.
        """
        usual = self.dtype
        if dtype == usual:
            yield
            return
        try:
            self.compute_in(dtype)
            yield
        finally:
            self.compute_in(usual)

    def autocast(self) -> torch.autocast:
        """The networks' arithmetic for what goes with them and keeps float32 weights: adapters."""
        return torch.autocast(self.alphas.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def networks(self) -> list[nn.Module]:
        """What takes the time of a forward pass; each is called by itself, on batches of one shape."""
        return [self.unet]

    @property
    def multiple_px(self) -> int:
        """Image sides must be a multiple of this many pixels."""
        return int(self.latent_factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1))

    def encode(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Image B3HW float in [-1, 1], RGB -> latent B,12,H/2,W/2."""
        return F.pixel_unshuffle(image_BCHW, self.latent_factor)

    def decode(self, latent_BCHW: torch.Tensor) -> torch.Tensor:
        """Latent B,12,h,w -> image B,3,2h,2w, nominally in [-1, 1]."""
        return F.pixel_shuffle(latent_BCHW, self.latent_factor)

    def predict_clean(self, z_BCHW: torch.Tensor, t_B: torch.Tensor) -> torch.Tensor:
        """One forward pass at time step ``t_B`` (int64): the predicted clean latent, float32, same shape as ``z``.

        v prediction: x0 = sqrt(abar) z - sqrt(1 - abar) v (Salimans and Ho, 2022);
        noise prediction: x0 = (z - sqrt(1 - abar) epsilon) / sqrt(abar).
        """
        taken = z_BCHW.to(self.dtype)
        out = self.unet(taken, t_B, **self._condition(taken), return_dict=False)[0].float()
        abar = self.alphas[t_B].view(-1, 1, 1, 1)
        if self.prediction == "epsilon":
            return (z_BCHW - (1 - abar).sqrt() * out) / abar.sqrt()
        return abar.sqrt() * z_BCHW - (1 - abar).sqrt() * out

    def _condition(self, z_BCHW: torch.Tensor) -> dict[str, Any]:
        """What else the UNet is told, for a batch like ``z``: nothing here."""
        null = z_BCHW.new_zeros(z_BCHW.shape[0], 1, self.unet.config["cross_attention_dim"])
        return {"encoder_hidden_states": null}

    def fingerprint(self) -> str:
        """Hash of the UNet's weights and the schedule, in memory: tells whether anything changed them."""
        return fingerprint(self.unet, COMPACT_SCHEDULE)

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``base.safetensors`` (float16)."""
        save_half(self.unet, folder / "base.safetensors")
        config = {"unet": COMPACT_UNET, "scheduler": COMPACT_SCHEDULE}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path) -> Base:
        """Load a compact base saved by :meth:`save_pretrained`, frozen, in float32.

        Raises:
            WeightsError: a file or a key is missing or does not fit.
        """
        config = read_config(folder)
        base = Base._of(config["unet"], config["scheduler"])
        load_strictly(base.unet, folder / "base.safetensors")
        base.eval().requires_grad_(False)
        return base
