"""Weights on disk and their identity: half-precision safetensors, loaded strictly. Knows no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fdi_lib.errors import WeightsError
from fdi_lib.models.checkpoints import fill


def save_half(module: nn.Module, path: Path) -> None:
    """Write a module's state as float16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().half().contiguous() for name, tensor in module.state_dict().items()}, path)
    path.chmod(0o644)  # safetensors writes files that only their owner may read


def load_strictly(module: nn.Module, path: Path) -> None:
    """Load a file into a module, in float32, and freeze it: every key must be there, with its shape, and no other.

    Raises:
        WeightsError: the file is missing, or its keys or shapes are others; names the first.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: not found")
    fill(module, load_file(path), str(path), torch.float32)


def fingerprint(module: nn.Module, config: Mapping[str, Any]) -> str:
    """SHA-256 over configuration and half-precision weights (name, shape, bytes; sorted by name)."""
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()
