"""The training loop: one plain function that every model of this project is trained with.

It knows optimisation, averaging, logging and resuming; it knows neither models nor data, and imports no Ray.
A step's data depends on ``(seed, sample index)`` only, so a resumed run sees what an undisturbed one would have seen.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class FitSettings:
    """How long and how fast to train.

    Args:
        steps: optimiser steps.
        learning_rate: peak rate of AdamW; linear warm-up, then cosine decay to 2 % of it.
        warmup_steps: steps of warm-up.
        weight_decay: AdamW's decoupled decay.
        clip_norm: gradients are scaled down to this global L2 norm.
        ema_decay: decay of the averaged weights that are returned.
        precision: ``bf16`` (autocast) or ``fp32``.
        log_every_steps: a log line every so many steps.
        checkpoint_every_steps: a checkpoint every so many steps.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    precision: str = "bf16"
    log_every_steps: int = 50
    checkpoint_every_steps: int = 500


def learning_rate_at(step: int, settings: FitSettings) -> float:
    """Return the rate at ``step``: linear warm-up, then cosine decay to 2 % of the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def fit(
    model: nn.Module,
    make_batch: Callable[[int], Batch],
    loss_of: Callable[[Batch], dict[str, torch.Tensor]],
    settings: FitSettings,
    folder: Path,
) -> nn.Module:
    """Train ``model``'s parameters that require gradients; return it with its averaged weights loaded.

    Args:
        model: holds the parameters; frozen ones (``requires_grad=False``) are neither optimised nor averaged.
        make_batch: step number -> tensors; called ahead in a thread, must depend on the step only.
        loss_of: batch -> named scalar losses; ``"loss"`` is minimised, all are logged.
        settings: see :class:`FitSettings`.
        folder: receives ``log.jsonl`` and ``checkpoint.pt``; a run found there is continued.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    start = _resume(folder, trained, average, optimizer)
    began, seen = time.monotonic(), start
    sums: dict[str, float] = {}
    with ThreadPoolExecutor(max_workers=1) as ahead, (folder / "log.jsonl").open("a") as lines:
        pending = ahead.submit(make_batch, start)
        for step in range(start, settings.steps):
            batch = pending.result()
            pending = ahead.submit(make_batch, step + 1)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, settings)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                losses = loss_of(batch)
            if not torch.isfinite(losses["loss"]):
                raise FloatingPointError(
                    f"loss is {losses['loss'].item()} at step {step}; last checkpoint kept in {folder}"
                )
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(trained.values(), settings.clip_norm)
            optimizer.step()
            decay = min(settings.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, p in trained.items():
                    average[name].lerp_(p, 1 - decay)
            for name, value in {**losses, "grad_norm": norm}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if (step + 1) % settings.log_every_steps == 0 or step + 1 == settings.steps:
                row: dict[str, Any] = {"step": step + 1, "lr": learning_rate_at(step, settings)}
                row |= {k: round(v / (step + 1 - seen), 6) for k, v in sums.items()}
                row["steps_per_s"] = round((step + 1 - start) / (time.monotonic() - began), 3)
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                log.info("%s", row)
                sums, seen = {}, step + 1
            if (step + 1) % settings.checkpoint_every_steps == 0 or step + 1 == settings.steps:
                _save(folder, step + 1, trained, average, optimizer)
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(average[name])
    return model


def _save(
    folder: Path,
    step: int,
    trained: dict[str, nn.Parameter],
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    state = {
        "step": step,
        "model": {k: p.detach() for k, p in trained.items()},
        "average": average,
        "optimizer": optimizer.state_dict(),
    }
    part = folder / "checkpoint.part"
    torch.save(state, part)
    os.replace(part, folder / "checkpoint.pt")


def _resume(
    folder: Path, trained: dict[str, nn.Parameter], average: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(state["model"][name])
            average[name].copy_(state["average"][name])
    optimizer.load_state_dict(state["optimizer"])
    log.info("continuing at step %d", state["step"])
    return int(state["step"])


def freeze(modules: Iterable[nn.Module]) -> None:
    """Put modules into evaluation mode and stop their gradients."""
    for module in modules:
        module.eval().requires_grad_(False)
