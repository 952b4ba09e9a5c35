"""The FDI adapter: everything trainable, outside the frozen base (Wang et al., CVPR 2025, section 3).

From the degraded image it makes feature maps A_i at the base's encoder scales (trunk); the constant FDI, as query over
A_i, becomes Fh_i, the degradation-related part for this image (noise decoupling); Fh_i gates the channels of A_i, which
are added to the base's encoder features, and yields per-channel modulation of its decoder features. None of it depends
on the time step: computed once per image, reused at every step.

A freshly made adapter leaves the base's output bit-identical: output convolutions and modulation heads start at zero.
Suffixes: B batch, C channels, H and W height and width, T FDI tokens, D their width, N = H * W.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from fdi_lib.errors import WeightsError
from fdi_lib.models.checkpoints import fetched, is_repository
from fdi_lib.models.weights import fingerprint, load_strictly, read_config, save_half


@dataclass(frozen=True)
class AdapterConfig:
    """Shape and use of an adapter; kept in ``config.json``.

    Args:
        task: the degradation it repairs.
        channels: of the base's encoder blocks, finest first.
        widths: of the trunk at the same scales.
        blocks: residual blocks of the trunk at the same scales.
        latent_factor: pixel-unshuffle factor at the trunk's entrance (the base's latent factor).
        fdi_shape: (T, D) of the FDI tokens.
        base_sha256, encoder_sha256: fingerprints of what it was trained with.
        init, start_t, steps, guidance_window: how it is sampled, found by measurement.
        fidelity: whether it carries a fidelity path.
        training_sha256: hash of the resolved training manifest.
    """

    task: str
    channels: tuple[int, ...]
    widths: tuple[int, ...] = (48, 48, 48, 48)
    blocks: tuple[int, ...] = (2, 1, 1, 1)
    latent_factor: int = 2
    fdi_shape: tuple[int, int] = (16, 128)
    base_sha256: str = ""
    encoder_sha256: str = ""
    init: str = "input"
    start_t: float = 0.5
    steps: int = 1
    guidance_window: float = 1.0
    fidelity: bool = True
    training_sha256: str = ""


Modulation = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # h, dgamma, dbeta


@dataclass
class Guidance:
    """What an adapter says about an image, for every scale i: all the base needs.

    Args:
        additions: gated maps Ah_i, B,C_i,H_i,W_i, added to the encoder's features.
        modulations: (h, dgamma, dbeta), each B,C_i,1,1, for the decoder's features.
    """

    additions: list[torch.Tensor]
    modulations: list[Modulation]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.conv2(F.silu(self.conv1(F.silu(x_BCHW))))


class _Attention(nn.Module):
    """Self-attention of every position to an 8 x 8 summary of the map: linear in pixels, global in reach."""

    def __init__(self, width: int, inner: int = 32) -> None:
        super().__init__()
        self.to_q, self.to_kv = nn.Conv2d(width, inner, 1), nn.Conv2d(width, 2 * inner, 1)
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        query_BNC = self.to_q(x_BCHW).flatten(2).transpose(1, 2)
        key_BMC, value_BMC = self.to_kv(F.adaptive_avg_pool2d(x_BCHW, 8)).flatten(2).transpose(1, 2).chunk(2, dim=2)
        mixed_BNC = F.scaled_dot_product_attention(query_BNC[:, None], key_BMC[:, None], value_BMC[:, None])[:, 0]
        return x_BCHW + self.out(mixed_BNC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:]))


class _FeatureBlock(nn.Module):
    """Convolution, residual blocks, self-attention; halves the resolution if asked."""

    def __init__(self, inputs: int, width: int, blocks: int, halve: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1, stride=2 if halve else 1)
        self.residuals = nn.Sequential(*[_Residual(width) for _ in range(blocks)])
        self.attention = _Attention(width)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.attention(self.residuals(self.conv(x_BCHW)))


class _Decoupling(nn.Module):
    """``Fh_i = CrossAttn(Q=F, K=V=A_i)``: the part of the FDI that this image shows, as one token per FDI token."""

    def __init__(self, width: int, fdi_width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(fdi_width, width),
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, width, 1),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, fdi_TD: torch.Tensor, a_BCHW: torch.Tensor) -> torch.Tensor:
        query_BTC = self.to_q(fdi_TD).expand(len(a_BCHW), -1, -1)
        key_BNC, value_BNC = (f(a_BCHW).flatten(2).transpose(1, 2) for f in (self.to_k, self.to_v))
        mixed_BTC = F.scaled_dot_product_attention(query_BTC[:, None], key_BNC[:, None], value_BNC[:, None])[:, 0]
        return self.norm(query_BTC + mixed_BTC)


class FDIAdapter(nn.Module):
    """An adapter for one degradation; see the module's docstring."""

    def __init__(self, config: AdapterConfig, fdi_TD: torch.Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        tokens = torch.zeros(config.fdi_shape) if fdi_TD is None else fdi_TD.float()
        if tuple(tokens.shape) != tuple(config.fdi_shape):
            raise WeightsError(
                f"adapter {config.task}: FDI tokens of shape {tuple(tokens.shape)}, expected {config.fdi_shape}"
            )
        # The FDI is data, kept in fdi.safetensors. Unit scale: adapters learn at one rate whatever the encoder's.
        self.fdi_TD: torch.Tensor
        self.register_buffer("fdi_TD", tokens / tokens.std().clamp(min=1e-6), persistent=False)
        widths, entrance = config.widths, 3 * config.latent_factor**2
        self.trunk = nn.ModuleList(
            _FeatureBlock(entrance if i == 0 else widths[i - 1], w, config.blocks[i], i > 0)
            for i, w in enumerate(widths)
        )
        self.decoupling = nn.ModuleList(_Decoupling(w, config.fdi_shape[1]) for w in widths)
        self.gate = nn.ModuleList(
            nn.Sequential(nn.Linear(w, w // 4), nn.ReLU(), _zero(nn.Linear(w // 4, w))) for w in widths
        )
        self.add = nn.ModuleList(_zero(nn.Conv2d(w, c, 1)) for w, c in zip(widths, config.channels, strict=True))
        self.modulate = nn.ModuleList(
            nn.Sequential(nn.Linear(w, w), nn.ReLU(), _zero(nn.Linear(w, 3 * c)))
            for w, c in zip(widths, config.channels, strict=True)
        )
        self.refiner = _Refiner(entrance) if config.fidelity else None

    def guidance(self, image_BCHW: torch.Tensor) -> Guidance:
        """Degraded image B3HW float in [-1, 1] -> guidance for the base. H and W: multiples of the base's."""
        x_BCHW = F.pixel_unshuffle(image_BCHW, self.config.latent_factor)
        additions, modulations = [], []
        for i, block in enumerate(self.trunk):
            x_BCHW = block(x_BCHW)
            f_BC = self.decoupling[i](self.fdi_TD, x_BCHW).mean(1)  # GAP over the FDI tokens
            gate_BC11 = 2 * torch.sigmoid(self.gate[i](f_BC))[:, :, None, None]
            additions.append(self.add[i](x_BCHW * gate_BC11))
            h, dgamma, dbeta = self.modulate[i](f_BC)[:, :, None, None].chunk(3, dim=1)
            modulations.append((h, dgamma, dbeta))
        return Guidance(additions, modulations)

    def refine(self, degraded_BCHW: torch.Tensor, output_BCHW: torch.Tensor) -> torch.Tensor:
        """Fidelity path: correct the output latent by looking at the degraded one; identity without such a path."""
        if self.refiner is None:
            return output_BCHW
        refined: torch.Tensor = self.refiner(degraded_BCHW, output_BCHW)
        return refined

    def fingerprint(self) -> str:
        """Hash of configuration and weights, in memory."""
        return fingerprint(self, asdict(self.config))

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``adapter.safetensors`` (float16) and ``config.json``; ``fdi.safetensors`` if there is none yet."""
        folder = Path(path)
        save_half(self, folder / "adapter.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        if not (folder / "fdi.safetensors").exists():
            save_file({"tokens": self.fdi_TD.contiguous()}, folder / "fdi.safetensors")

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, *, revision: str | None = None) -> FDIAdapter:
        """Load an adapter folder, frozen, in float32.

        Args:
            path_or_id: a folder, or the id (``owner/name``) of a repository on the Hugging Face Hub with its files.
            revision: branch, tag or commit of the repository.

        Raises:
            WeightsError: a file or key is missing or of another shape; only safetensors is ever read.
        """
        folder = Path(path_or_id)
        if is_repository(str(path_or_id)):
            folder = fetched(str(path_or_id), revision, ["*.safetensors", "config.json"])
        fdi = folder / "fdi.safetensors"
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in read_config(folder).items()}
        if not fdi.is_file():
            raise WeightsError(f"{fdi}: not found; an adapter folder holds it")
        adapter = cls(AdapterConfig(**values), load_file(fdi)["tokens"])
        load_strictly(adapter, folder / "adapter.safetensors")
        return adapter


class _Refiner(nn.Module):
    """A small convolutional residual on cat(degraded, output), at the latent's resolution (after AutoDIR)."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2 * channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            _zero(nn.Conv2d(width, channels, 3, padding=1)),
        )

    def forward(self, degraded_BCHW: torch.Tensor, output_BCHW: torch.Tensor) -> torch.Tensor:
        return output_BCHW + self.body(torch.cat([degraded_BCHW, output_BCHW], dim=1))


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
