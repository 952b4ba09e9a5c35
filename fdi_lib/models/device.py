"""Where models run, and in what arithmetic. The driver is never asked: this is called where the model lives."""

from __future__ import annotations

import torch


def accelerator() -> torch.device:
    """The device that this process may use: Ray shows an actor only the GPUs it was given."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arithmetic(dtype: str, device: torch.device) -> torch.dtype:
    """Arithmetic of forward passes for the manifest's ``restore.dtype``."""
    if dtype == "auto":
        dtype = "bf16" if device.type == "cuda" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
