"""Reads the parts of a Stable Diffusion checkpoint in diffusers' layout, strictly, from safetensors only.

Suffixes: B batch, T prompt tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fdi_lib.errors import WeightsError
from fdi_lib.models.base import PREDICTIONS
from fdi_lib.models.base_files import part_files
from fdi_lib.models.checkpoints import fill, read_tensors
from fdi_lib.models.configs import read_config, read_json

_DIFFUSION = "diffusion_pytorch_model"
# Only what defines the levels: sampling is ours, whatever sampler a checkpoint comes with.
SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
             "rescale_betas_zero_snr")  # fmt: skip
# Names that autoencoders saved before diffusers 0.14 have.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class Family:
    """What tells an architecture from others, and where adapters attach to it (positions by block, finest first)."""

    name: str
    config: Mapping[str, Any]
    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    levels: tuple[int, ...]  # index into the UNet's channels
    octaves: tuple[int, ...]  # halvings of the latent's resolution


# Anything else in these places would be conditions that we don't give.
_PLAIN: dict[str, Any] = {"class_embed_type": None, "num_class_embeds": None, "encoder_hid_dim_type": None}
FAMILIES = (
    Family(
        "stable-diffusion",
        _PLAIN | {
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "addition_embed_type": None,
        },
        (*(f"down_blocks.{i}.attentions.1" for i in range(3)), "down_blocks.3.resnets.1"),
        (*(f"up_blocks.{i}.attentions.2" for i in (3, 2, 1)), "up_blocks.0.resnets.2"),
        (0, 1, 2, 3),
        (0, 1, 2, 3),
    ),
    Family(
        "stable-diffusion-xl",
        _PLAIN | {
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "addition_embed_type": "text_time",
        },
        # T2I-Adapter's layout for SDXL: the first addition comes after the downsampler.
        ("down_blocks.0", "down_blocks.1.attentions.1", "down_blocks.2.attentions.1", "mid_block"),
        ("up_blocks.2.resnets.2", "up_blocks.1.attentions.2", "up_blocks.0.attentions.2"),
        (0, 1, 2, 2),
        (1, 1, 2, 2),
    ),
)  # fmt: skip


def family_of(config: Mapping[str, Any], path: Path) -> Family:
    """Return the architecture of a UNet's configuration.

    Raises:
        WeightsError: it is none that is known.
    """
    for family in FAMILIES:
        if config.get("down_block_types") == family.config["down_block_types"]:
            expect(path, config, family.config)
            return family
    known = " or ".join(f"{f.config['down_block_types']} ({f.name})" for f in FAMILIES)
    raise WeightsError(f"{path}: expected down_block_types {known}, found {config.get('down_block_types')}")


def expect(path: Path, config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise WeightsError, naming file, key, expected and found, where a configuration says something else."""
    for key, value in expected.items():
        if config.get(key) != value:
            raise WeightsError(f"{path}: expected {key} {value}, found {config.get(key)}")


def read_scheduler(folder: Path) -> DDIMScheduler:
    """Read the noise levels and the kind of prediction that a checkpoint was trained with.

    Raises:
        WeightsError: they are missing, or of a kind that isn't known.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path, "a checkpoint in diffusers' layout")
    kept = {key: config[key] for key in SCHEDULE if config.get(key) is not None}
    if not {"beta_schedule", "trained_betas"} & kept.keys():
        raise WeightsError(f"{path}: expected a schedule of noise (beta_schedule), found {sorted(config)}")
    if kept.setdefault("prediction_type", "epsilon") not in PREDICTIONS:
        raise WeightsError(f"{path}: expected a prediction_type of {PREDICTIONS}, found {kept['prediction_type']}")
    if kept["prediction_type"] == "epsilon" and kept.get("rescale_betas_zero_snr"):
        raise WeightsError(f"{path}: expected v_prediction where rescale_betas_zero_snr is set, found epsilon")
    return DDIMScheduler(**kept, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")


def read_part(made: Callable[[Any], Any], config: Any, folder: Path, part: str, stem: str = _DIFFUSION) -> Any:
    """Make a model of a configuration with a part's weights, frozen, float32; only the weights take memory.

    Args:
        made: configuration -> model.
        config: of the part.
        folder: of the checkpoint.
        part: name of the part's folder.
        stem: of its weight files.

    Raises:
        WeightsError: weights are missing or don't fit.
    """
    with torch.device("meta"):
        model: nn.Module = made(config)
    files = part_files(folder, part, stem)
    tensors = read_tensors(files)
    if part == "vae":
        tensors = {_renamed(name): tensor for name, tensor in tensors.items()}
    if stem == "model":
        # Versions of transformers differ in this prefix, and older ones stored the positions, which are constant.
        own = {name.removeprefix("text_model."): name for name in model.state_dict()}
        bare = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        tensors = {own.get(name, name): bare[name] for name in bare if not name.endswith("position_ids")}
    fill(model, tensors, str(files[0] if len(files) == 1 else folder / part), torch.float32)
    return model


def _renamed(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def empty_prompt(folder: Path, *, two: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embed the empty prompt: as the UNet is told it, 1,T,D, and SDXL's pooled embedding 1,D (``two`` text encoders).

    Raises:
        WeightsError: a text encoder or tokenizer is missing or doesn't fit.
    """
    first = _text(folder, "", hidden=two)
    if not two:
        return first["hidden"], None
    second = _text(folder, "_2", hidden=True)
    if "pooled" not in second:
        raise WeightsError(f"{folder / 'text_encoder_2' / 'config.json'}: expected CLIPTextModelWithProjection")
    return torch.cat([first["hidden"], second["hidden"]], dim=-1), second["pooled"]


@torch.no_grad()
def _text(folder: Path, suffix: str, *, hidden: bool) -> dict[str, torch.Tensor]:
    """Embed the empty prompt with one text encoder; ``hidden`` takes the last layer but one, as SDXL does."""
    part, path = f"text_encoder{suffix}", folder / f"text_encoder{suffix}" / "config.json"
    kinds = {kind.__name__: kind for kind in (CLIPTextModel, CLIPTextModelWithProjection)}
    config = read_config(folder / part)
    name = (config.get("architectures") or ["CLIPTextModel"])[0]
    if name not in kinds:
        raise WeightsError(f"{path}: expected a text encoder of {sorted(kinds)}, found {name}")
    model = read_part(kinds[name], CLIPTextConfig.from_dict(config), folder, part, "model")
    embeddings = model.get_submodule("text_model.embeddings" if hasattr(model, "text_model") else "embeddings")
    embeddings.position_ids = torch.arange(model.config.max_position_embeddings)[None]
    words = folder / f"tokenizer{suffix}"
    if not (words / "vocab.json").is_file() and not (words / "tokenizer.json").is_file():
        raise WeightsError(f"{words / 'vocab.json'}: not found; a checkpoint holds its tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(str(words))
    length = model.config.max_position_embeddings
    ids = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    out = model(ids, output_hidden_states=True)
    found = {"hidden": out.hidden_states[-2] if hidden else out.last_hidden_state}
    return found | ({"pooled": out.text_embeds} if "text_embeds" in out else {})
