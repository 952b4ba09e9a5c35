"""Tiny checkpoints of the architectures that serve as bases, saved as their makers save them; weights are random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

KINDS = ("sd15", "sd21", "sdxl")
_LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_WORDS = {"<|startoftext|>": 0, "<|endoftext|>": 1, "!": 2, "a</w>": 3, "a": 4}


def save_checkpoint(folder: Path, kind: str, **unet: Any) -> Path:
    """Save a checkpoint in diffusers' layout: SD 1.5's (epsilon), SD 2.1's (v) or SDXL's (two text encoders)."""
    torch.manual_seed(KINDS.index(kind))
    UNet2DConditionModel(**(_unet(kind) | unet)).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), down_block_types=["DownEncoderBlock2D"] * 4, norm_num_groups=4,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, layers_per_block=1, force_upcast=True,
        scaling_factor=0.13025 if kind == "sdxl" else 0.18215,
    ).save_pretrained(folder / "vae")  # fmt: skip
    scheduler = {
        "sd15": lambda: PNDMScheduler(**_LEVELS, skip_prk_steps=True),
        "sd21": lambda: DDIMScheduler(**_LEVELS, prediction_type="v_prediction"),
        "sdxl": lambda: EulerDiscreteScheduler(**_LEVELS, prediction_type="epsilon"),
    }[kind]()
    scheduler.save_pretrained(folder / "scheduler")
    _save_text(folder, "", CLIPTextModel)
    if kind == "sdxl":
        _save_text(folder, "_2", CLIPTextModelWithProjection)
    return folder


def _unet(kind: str) -> dict[str, Any]:
    shared: dict[str, Any] = {"sample_size": 8, "layers_per_block": 2, "norm_num_groups": 8, "in_channels": 4}
    if kind == "sdxl":
        return shared | {
            "block_out_channels": (16, 32, 64), "cross_attention_dim": 64, "attention_head_dim": [2, 4, 8],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 1, 2], "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
        }  # fmt: skip
    return shared | {
        "block_out_channels": (16, 32, 64, 64), "cross_attention_dim": 32,
        "attention_head_dim": 8 if kind == "sd15" else [2, 4, 8, 8], "use_linear_projection": kind == "sd21",
    }  # fmt: skip


def _save_text(folder: Path, suffix: str, model: type) -> None:
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=3, vocab_size=len(_WORDS),
        projection_dim=24, max_position_embeddings=11, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model(config).save_pretrained(folder / f"text_encoder{suffix}")
    words = folder / f"tokenizer{suffix}"
    words.mkdir(parents=True)
    (words / "vocab.json").write_text(json.dumps(_WORDS))
    (words / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
               "pad_token": "!" if suffix else "<|endoftext|>"}  # fmt: skip
    (words / "special_tokens_map.json").write_text(json.dumps(special))
    told = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 11}
    (words / "tokenizer_config.json").write_text(json.dumps(told))
