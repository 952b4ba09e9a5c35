"""What an interrupted training goes on from: weights, their average, optimiser, random state, step, the log so far.

A checkpoint is a folder: ``average.safetensors`` (the weights that will be kept), ``state.pt`` and ``log.jsonl``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from fdi_lib.errors import WeightsError

LOG = "log.jsonl"
AVERAGE = "average.safetensors"
_STATE = "state.pt"


@dataclass
class TrainState:
    """Everything that changes while training.

    Args:
        trained: parameters that are optimised, by name.
        average: their exponential moving average.
        optimizer: of ``trained``.
        scaler: of the gradients, with fp16.
    """

    trained: dict[str, nn.Parameter]
    average: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    scaler: Any = None

    def save(self, folder: Path, step: int, log: Path) -> None:
        """Write a checkpoint into an empty folder.

        Raises:
            OSError: the disk is full, say; written through memory, because torch's own writer hides the reason.
        """
        buffer = BytesIO()
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        state = {
            "step": step,
            "model": {name: p.detach() for name, p in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "random": {"cpu": torch.get_rng_state(), "devices": devices},
            "scaler": self.scaler.state_dict() if self.scaler else {},
        }
        torch.save(state, buffer)
        (folder / _STATE).write_bytes(buffer.getbuffer())
        (folder / AVERAGE).write_bytes(save({k: v.detach().cpu().contiguous() for k, v in self.average.items()}))
        if log.exists():
            shutil.copy(log, folder / LOG)

    def load(self, folder: Path, log: Path | None) -> int:
        """Take a checkpoint up; return the number of steps done. The log is cut back to it, too.

        Raises:
            WeightsError: it belongs to a model of another shape.
        """
        device = next(iter(self.trained.values())).device
        state = torch.load(folder / _STATE, map_location=device, weights_only=True)
        average = load((folder / AVERAGE).read_bytes())
        shapes = {name: p.shape for name, p in self.trained.items()}
        if shapes != {name: p.shape for name, p in state["model"].items()}:
            raise WeightsError(f"{folder}: a checkpoint of another model; remove it, or restore the model's settings")
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(state["model"][name])
                self.average[name].copy_(average[name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if len(state["random"]["devices"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["random"]["devices"]])
        if log is not None and (folder / LOG).exists():
            shutil.copy(folder / LOG, log)
        return int(state["step"])

    def follow(self, decay: float) -> None:
        """Move the average towards the weights."""
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.trained.values()], 1 - decay)

    def swap(self) -> None:
        """Exchange weights and average: the model then computes with what will be kept. Twice is the identity."""
        with torch.no_grad():
            for name, p in self.trained.items():
                held = p.detach().clone()
                p.copy_(self.average[name])
                self.average[name].copy_(held)
