"""SD 1.5-, SD 2.1- and SDXL-shaped checkpoints in diffusers' layout as frozen bases.

The empty prompt is embedded once, when a checkpoint is loaded; the text encoders are dropped
then. Suffixes: B batch, T prompt tokens, D width, C channels, H and W height and width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn

from fdi_lib.errors import WeightsError
from fdi_lib.models.base import AttachPoints, Base
from fdi_lib.models.base_files import fetch_base, is_compact
from fdi_lib.models.checkpoint_parts import SCHEDULE, Family, empty_prompt, expect, family_of, read_part, read_scheduler
from fdi_lib.models.configs import read_config
from fdi_lib.models.weights import fingerprint

_SDXL_SIDE = 128  # of its latent, where a configuration doesn't say


def load_base(uri: str | Path, revision: str | None = None, sha256: str | None = None) -> Base:
    """Load a frozen base in float32: a compact folder, or a Stable Diffusion checkpoint in diffusers' layout.

    Args:
        uri: folder, or id (``owner/name``) of a Hub repository.
        revision: commit (best), tag or branch of the repository.
        sha256: expected hash of the weights, see :func:`fdi_lib.models.base_files.base_sha256`.

    Raises:
        WeightsError: weights are missing, altered, pickled or of another architecture; names file, expected and found.
    """
    folder = fetch_base(str(uri), revision, sha256)
    return Base.from_pretrained(folder) if is_compact(folder) else StableDiffusion.from_pretrained(folder)


class StableDiffusion(Base):
    """A Stable Diffusion checkpoint: the latent is its VAE's, the prompt is empty.

    Args:
        unet, scheduler, vae: of the checkpoint.
        family: its architecture.
        prompt_1TD: the embedded empty prompt.
        pooled_1D: SDXL's pooled embedding of it.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        vae: AutoencoderKL,
        family: Family,
        prompt_1TD: torch.Tensor,
        pooled_1D: torch.Tensor | None,
    ) -> None:
        self.latent_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.latent_channels = int(vae.config["latent_channels"])
        channels = tuple(unet.config["block_out_channels"])
        super().__init__(
            unet,
            scheduler,
            AttachPoints(
                family.encoder,
                family.decoder,
                tuple(channels[i] for i in family.levels),
                tuple(self.latent_factor * 2**n for n in family.octaves),
            ),
        )
        self.name, self.vae = family.name, vae
        self._scale, self._shift = float(vae.config["scaling_factor"]), float(vae.config["shift_factor"] or 0)
        self.prompt: torch.Tensor
        self.register_buffer("prompt", prompt_1TD)
        self.pooled: torch.Tensor | None
        self.register_buffer("pooled", pooled_1D)
        # SDXL is told a picture's size and crop, and paints blurs where told a small one: always its own full size,
        # so that nothing depends on the tile's.
        side = float((unet.config["sample_size"] or _SDXL_SIDE) * self.latent_factor)
        self.times: torch.Tensor
        self.register_buffer("times", torch.tensor([[side, side, 0.0, 0.0, side, side]]), persistent=False)

    @torch.no_grad()
    def encode(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Image B3HW float in [-1, 1], RGB -> latent B,C,H/8,W/8 float32, in the UNet's range; no gradient passes.

        The mean of the VAE's posterior, not a draw: the same image has the same latent.
        """
        with self._vae_arithmetic():
            mean: torch.Tensor = self.vae.encode(image_BCHW.to(self.vae.dtype)).latent_dist.mean.float()
        return (mean - self._shift) * self._scale

    def decode(self, latent_BCHW: torch.Tensor) -> torch.Tensor:
        """Latent B,C,h,w -> image B,3,8h,8w float32, nominally in [-1, 1]."""
        with self._vae_arithmetic():
            latent = (latent_BCHW / self._scale + self._shift).to(self.vae.dtype)
            image: torch.Tensor = self.vae.decode(latent, return_dict=False)[0]
        # A copy even of float32: what a CUDA graph returns is written over by its next run.
        return image.to(torch.float32, copy=True)

    def compute_in(self, dtype: torch.dtype) -> None:
        """See :meth:`Base.compute_in`; a VAE that asks for float32 keeps it: SDXL's comes out black in float16."""
        super().compute_in(dtype)
        asks = self.vae.config["force_upcast"] and (self.exact_vae or dtype == torch.float16)
        nn.Module.to(self.vae, torch.float32 if asks else dtype)

    def _vae_arithmetic(self) -> AbstractContextManager[Any]:
        """A VAE that asks for full precision computes in that of its weights, whatever autocast a training is under."""
        asks = self.vae.config["force_upcast"]
        return torch.autocast(self.prompt.device.type, enabled=False) if asks else nullcontext()

    @property
    def networks(self) -> list[nn.Module]:
        """UNet, and both halves of the VAE."""
        return [self.unet, self.vae.encoder, self.vae.decoder]

    def _condition(self, z_BCHW: torch.Tensor) -> dict[str, Any]:
        count = len(z_BCHW)
        told: dict[str, Any] = {"encoder_hidden_states": self.prompt.to(z_BCHW.dtype).expand(count, -1, -1)}
        if self.pooled is not None:
            added = {"text_embeds": self.pooled, "time_ids": self.times}  # cast by the UNet, once embedded
            told["added_cond_kwargs"] = {k: v.expand(count, -1) for k, v in added.items()}
        return told

    def fingerprint(self) -> str:
        """Hash of UNet, VAE, embedded prompt and schedule, in memory: tells whether anything changed them."""
        return fingerprint(self, {name: self.scheduler.config[name] for name in SCHEDULE})

    def save_pretrained(self, folder: Path) -> None:
        """Refuse: a checkpoint stays where it is."""
        raise TypeError("a Stable Diffusion base is never written; copy its folder")

    @classmethod
    def from_pretrained(cls, folder: Path) -> StableDiffusion:
        """Load a checkpoint's folder, frozen, in float32.

        Raises:
            WeightsError: a part is missing or does not fit, or the architecture is none that is known.
        """
        config, scheduler = read_config(folder / "unet"), read_scheduler(folder)
        family = family_of(config, folder / "unet" / "config.json")
        unet = read_part(UNet2DConditionModel.from_config, config, folder, "unet")
        vae_config = read_config(folder / "vae")
        expect(folder / "vae" / "config.json", vae_config, {"latents_mean": None, "latents_std": None})
        vae = read_part(AutoencoderKL.from_config, vae_config, folder, "vae")
        latent = vae.config["latent_channels"]
        expect(folder / "unet" / "config.json", dict(unet.config), {"in_channels": latent, "out_channels": latent})
        prompt_1TD, pooled_1D = empty_prompt(folder, two=family.config["addition_embed_type"] is not None)
        expect(folder / "unet" / "config.json", dict(unet.config), {"cross_attention_dim": prompt_1TD.shape[-1]})
        if pooled_1D is not None:
            wide = pooled_1D.shape[-1] + 6 * unet.config["addition_time_embed_dim"]
            expect(folder / "unet" / "config.json", dict(unet.config), {"projection_class_embeddings_input_dim": wide})
        try:
            base = cls(unet, scheduler, vae, family, prompt_1TD, pooled_1D)
        except WeightsError as error:
            raise WeightsError(f"{folder}: {error}") from error
        base.eval().requires_grad_(False)
        return base
