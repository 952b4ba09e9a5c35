"""Small BLIP-2 checkpoints with random weights, as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, Blip2Model

SIZE_PX = 32
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": SIZE_PX, "patch_size": 8, "initializer_range": 0.2}  # fmt: skip
QFORMER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
           "vocab_size": 40, "initializer_range": 0.2}  # fmt: skip
TEXT = {"model_type": "opt", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 32}  # fmt: skip
SHAPES = {"retrieval": Blip2ForImageTextRetrieval, "model": Blip2Model, "generation": Blip2ForConditionalGeneration}


def save_blip2(folder: Path, shape: str = "retrieval", **saving: Any) -> torch.nn.Module:
    """Write a checkpoint of one of ``SHAPES`` with ``save_pretrained`` and return transformers' own model."""
    torch.manual_seed(0)
    qformer = QFORMER | {"use_qformer_text_input": shape == "retrieval"}
    config = Blip2Config(
        vision_config=VISION, qformer_config=qformer, text_config=TEXT, num_query_tokens=4, image_text_hidden_size=16
    )
    model = SHAPES[shape](config).eval()
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(folder, **saving)
    return model


def rewrite(folder: Path, change: Any) -> None:
    """Change the tensors of a checkpoint of one file, in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def configure(folder: Path, **values: Any) -> None:
    """Change its ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
