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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from fdi_lib.errors import WeightsError
from fdi_lib.manifest.training import Form, Parts, Tone
from fdi_lib.models.checkpoints import fetched, is_repository
from fdi_lib.models.configs import read_config
from fdi_lib.models.layers import Decoupling, FeatureBlock, Refiner, zero
from fdi_lib.models.weights import fingerprint, load_strictly, save_half

if TYPE_CHECKING:  # brings diffusers, which an adapter by itself does not need
    from fdi_lib.models.base import Base


_CHOICES = {"modulator": get_args(Form), "addition": get_args(Form), "parts": get_args(Parts), "tone": get_args(Tone)}


@dataclass(frozen=True)
class AdapterConfig:
    """Shape and use of an adapter; kept in ``config.json``.

    Args:
        task: the degradation it repairs.
        channels: of the base's encoder blocks, finest first.
        widths: of the trunk at the same scales.
        blocks: residual blocks of the trunk at the same scales.
        latent_factor: of the base: image pixels a side of a position of its latent.
        fdi_shape: (T, D) of the FDI tokens.
        base_sha256, encoder_sha256: fingerprints of what it was trained with.
        init, start_t, steps, guidance_window: how it is sampled, found by measurement.
        fidelity: whether it carries a fidelity path.
        training_sha256: hash of the resolved training manifest.
        base: name of the base's architecture.
        encoder_points, decoder_points: names of the base's blocks that it attaches to, finest first; empty is the
            base's own.
        scales_px: image pixels a side of a position of A_i; the first is the pixel-unshuffle factor at the trunk's
            entrance. Empty: the latent factor, doubled at every scale.
        latent_channels: of the base's latent; 0 is that of a pixel-unshuffled image.
        light: trunk with pooling and 1 x 1 convolutions as in T2I-Adapter, narrower gates; wide trunks need it.
        attention_width: bottleneck of the trunk's self-attention.
        token_width: width of Fh_i's tokens; 0 is the trunk's at each scale.
        modulator: ``safe`` starts as the identity; ``literal`` is Eq. 4 and 5 as published.
        addition: ``safe`` adds through a convolution that starts at zero, gated by 2 sigmoid(.); ``literal`` adds
            A_i gated by sigmoid(.) itself, and needs a trunk as wide as the base.
        parts: ``full``, or for ablations only the ``modulator`` or only the ``decoupling`` with its additions;
            ``addition`` is the latter without self- and cross-attention.
        tone: where tiles of a larger image take their tone from: ``tiles``, or the ``whole`` image, restored in small.
        together: names of the adapters that it was trained together with, itself included; empty: alone.
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
    base: str = ""
    encoder_points: tuple[str, ...] = ()
    decoder_points: tuple[str, ...] = ()
    scales_px: tuple[int, ...] = ()
    latent_channels: int = 0
    light: bool = False
    attention_width: int = 32
    token_width: int = 0
    modulator: Form = "safe"
    addition: Form = "safe"
    parts: Parts = "full"
    tone: Tone = "tiles"
    together: tuple[str, ...] = ()

    @classmethod
    def for_base(cls, base: Base, task: str, fdi_shape: tuple[int, int], **use: Any) -> AdapterConfig:
        """Return the shape that fits a base: small for the compact one, about 48 M parameters at SD 2.1's.

        Args:
            base: that it will be attached to.
            task: the degradation it repairs.
            fdi_shape: (T, D) of the FDI tokens: the encoder's.
            use: other fields.
        """
        channels = tuple(base.channels)
        wide: dict[str, Any] = {} if base.name == "compact" else {
            "widths": channels, "blocks": (1,) * len(channels), "light": True, "attention_width": 64,
            "token_width": 128,
        }  # fmt: skip
        fitted = {
            "channels": channels,
            "latent_factor": base.latent_factor,
            "latent_channels": base.latent_channels,
            "base": base.name,
            "encoder_points": tuple(base.encoder_points),
            "decoder_points": tuple(base.decoder_points),
            "scales_px": base.points.scales_px,
        }
        return cls(task=task, fdi_shape=fdi_shape, **(wide | fitted | use))

    @property
    def scales(self) -> tuple[int, ...]:
        """``scales_px``, derived where it is empty."""
        return self.scales_px or tuple(self.latent_factor * 2**i for i in range(len(self.widths)))

    @property
    def modulated(self) -> int:
        """Scales whose Fh_i modulates a decoder block: the first ones."""
        return len(self.decoder_points) or len(self.channels)


Modulation = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # h, dgamma, dbeta; literal: h, gamma, beta


@dataclass
class Guidance:
    """What an adapter says about an image, for every scale i: all the base needs.

    Args:
        additions: gated maps Ah_i, B,C_i,H_i,W_i, added to the encoder's features; empty adds nothing.
        modulations: (h, dgamma, dbeta), each B,C_i,1,1, for the decoder's features; empty modulates nothing.
        literal: whether modulations are those of Eq. 4 and 5 as published.
    """

    additions: list[torch.Tensor]
    modulations: list[Modulation]
    literal: bool = False


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
        adds, modulates = config.parts != "modulator", config.parts in ("full", "modulator")
        attends = config.parts != "addition"
        used = len(config.channels) if adds else config.modulated  # every parameter is to have a gradient
        widths, scales = config.widths[:used], config.scales
        if adds and config.addition == "literal" and widths != config.channels:
            raise WeightsError(
                f"adapter {config.task}: literal addition needs widths {config.channels}, found {widths}"
            )
        self.trunk = nn.ModuleList(
            FeatureBlock(
                3 * scales[0] ** 2 if i == 0 else widths[i - 1],
                w,
                config.blocks[i],
                halve=i > 0 and scales[i] > scales[i - 1],
                light=config.light,
                entrance=i == 0,
                attention_width=config.attention_width if attends else 0,
            )
            for i, w in enumerate(widths)
        )
        squeeze = 16 if config.light else 4
        inner = [config.token_width or w for w in widths]
        self.decoupling = nn.ModuleList(
            Decoupling(w, config.fdi_shape[1], t, attends=attends) for w, t in zip(widths, inner, strict=True)
        )
        self.gate = nn.ModuleList(
            nn.Sequential(nn.Linear(t, w // squeeze), nn.ReLU(), zero(nn.Linear(w // squeeze, w)))
            for t, w in zip(inner, widths, strict=True)
            if adds
        )
        self.add = nn.ModuleList(
            nn.Identity() if config.addition == "literal" else zero(nn.Conv2d(w, c, 1))
            for w, c in zip(widths, config.channels, strict=False)
            if adds
        )
        self.modulate = nn.ModuleList(
            nn.Sequential(nn.Linear(t, t), nn.ReLU(), _head(t, c, config.modulator))
            for t, c in zip(inner[: config.modulated], config.channels, strict=False)
            if modulates
        )
        latent = config.latent_channels or 3 * config.latent_factor**2
        self.refiner = Refiner(latent) if config.fidelity else None

    def guidance(self, image_BCHW: torch.Tensor) -> Guidance:
        """Degraded image B3HW float in [-1, 1] -> guidance for the base. H and W: multiples of the base's."""
        x_BCHW = F.pixel_unshuffle(image_BCHW, self.config.scales[0])
        loudest = 1 if self.config.addition == "literal" else 2
        additions, modulations = [], []
        for i, block in enumerate(self.trunk):
            x_BCHW = block(x_BCHW)
            f_BC = self.decoupling[i](self.fdi_TD, x_BCHW).mean(1)  # GAP over the FDI tokens
            if i < len(self.gate):
                gate_BC11 = loudest * torch.sigmoid(self.gate[i](f_BC))[:, :, None, None]
                additions.append(self.add[i](x_BCHW * gate_BC11))
            if i < len(self.modulate):
                h, dgamma, dbeta = self.modulate[i](f_BC)[:, :, None, None].chunk(3, dim=1)
                modulations.append((h, dgamma, dbeta))
        return Guidance(additions, modulations, self.config.modulator == "literal")

    def hold_constants(self) -> FDIAdapter:
        """Keep what doesn't depend on the image from the first use on, bit-identically; for weights that stay."""
        for decoupling in self.decoupling:
            assert isinstance(decoupling, Decoupling)
            decoupling.held = {}
        return self

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
        known = {field.name for field in fields(AdapterConfig)}
        if not values.keys() <= known:
            unknown = sorted(values.keys() - known)[0]
            raise WeightsError(f"{folder / 'config.json'}: expected keys of an adapter, found {unknown}")
        for key in _CHOICES.keys() & values.keys():
            if values[key] not in _CHOICES[key]:
                wanted = ", ".join(_CHOICES[key])
                raise WeightsError(f"{folder / 'config.json'}: {key}: expected one of {wanted}, found {values[key]!r}")
        if not fdi.is_file():
            raise WeightsError(f"{fdi}: not found; an adapter folder holds it")
        adapter = cls(AdapterConfig(**values), load_file(fdi)["tokens"])
        load_strictly(adapter, folder / "adapter.safetensors")
        return adapter


def _head(inputs: int, channels: int, form: Form) -> nn.Module:
    """Last layer of a modulator: the identity; literal: gate 1/2 (which the normalisation undoes), gamma 1, beta 0."""
    layer = nn.Linear(inputs, 3 * channels)
    zero(layer)
    if form == "literal":
        nn.init.ones_(layer.bias[channels : 2 * channels])
    return layer
