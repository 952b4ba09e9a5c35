"""The training loop: one plain function that every model of this project is trained with.

It knows optimisation, averaging, logging and resuming; it knows neither models nor data, and imports no Ray. Alone or
as one of several processes (Accelerate finds out) it computes its shard of every global batch; shards are weighted so
that the gradient is the mean over the whole batch, whatever the number of processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.training.checkpoint import TrainState
from fdi_lib.training.samples import Batch, Shard
from fdi_lib.training.watch import Watch, means

Losses = Callable[[Batch], dict[str, torch.Tensor]]
Report = Callable[[dict[str, Any], Path | None], None]


class DivergedError(FDIError):
    """Training cannot go on: the loss is not a number. The message names the step; the last checkpoint is kept."""


class Judge(Protocol):
    """Scores the averaged weights on held-out data; the model holds them while it is asked."""

    def score(self) -> tuple[float, int]:
        """Sum of this process's scores, and how many they are; higher is better."""

    def sheet(self) -> np.ndarray:
        """Samples for a person, uint8 HW3."""


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
        parts: that a batch is computed in, by one process after the other or by several at once; gradients are summed.
            The split is the same whatever the number of processes, if that divides it: with two parts, one and two
            processes take the same steps to the last bit. Rounding alone would make them part after some dozen steps.
        precision: ``fp32``, or ``bf16`` or ``fp16`` (autocast).
        log_every_steps: a log line every so many steps.
        checkpoint_every_steps: a checkpoint every so many steps.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    parts: int = 1
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
    batches_from: Callable[[int], Iterator[Batch]],
    loss_of: Losses,
    settings: FitSettings,
    report: Report,
    watch: Watch,
    *,
    shard: Shard | None = None,
    last: Path | None = None,
    judge: Judge | None = None,
) -> nn.Module:
    """Train ``model``'s parameters that require gradients; return it with its averaged weights loaded.

    Args:
        model: holds the parameters; frozen ones (``requires_grad=False``) are neither optimised nor averaged.
        batches_from: first step -> this process's part of the batch of that step and of each one after it.
        loss_of: batch -> named scalar means over its samples; ``"loss"`` is minimised, all are logged.
        settings: see :class:`FitSettings`.
        report: takes the metrics of a checkpoint and, in the first process, its folder, which is removed afterwards.
        watch: where the log goes.
        shard: which part of the batch this process computes; None is all of it.
        last: folder of the checkpoint to go on from; None starts at the first step.
        judge: scores every checkpoint as ``validation_psnr``.

    Raises:
        DivergedError: the loss is not a number; raised in every process, before a checkpoint could hold it.
        ManifestError: fp16 without a GPU.
    """
    torch.set_flush_denormal(True)  # vanishing gradients made a CPU's step ten times as long
    accelerator = _accelerator(settings.precision, watch)
    objective = accelerator.prepare_model(_Objective(model, loss_of))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = accelerator.prepare_optimizer(
        torch.optim.AdamW(
            trained.values(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
    )
    average = {name: p.detach().clone() for name, p in trained.items()}
    state = TrainState(trained, average, optimizer.optimizer, accelerator.scaler)
    first = accelerator.is_main_process
    watch.folder.mkdir(parents=True, exist_ok=True)
    start = state.load(last, watch.log if first else None) if last else 0
    if first and not last:
        watch.log.unlink(missing_ok=True)  # of a try that ended before its first checkpoint
    journal = _Journal(accelerator, watch, settings, start)
    batches = batches_from(start)
    for step in range(start, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        batch = next(batches)
        total = shard.batch if shard else len(next(iter(batch.values())))
        journal.add(_step(accelerator, objective, optimizer, state, batch, settings, total), total)
        state.follow(min(settings.ema_decay, (1 + step) / (10 + step)))
        done = step + 1
        at_checkpoint = done % settings.checkpoint_every_steps == 0 or done == settings.steps
        at_sheet = judge is not None and (done % watch.images_every_steps == 0 or done == settings.steps)
        if at_checkpoint or at_sheet or done % settings.log_every_steps == 0:
            journal.close(done)
        if judge is not None and (at_checkpoint or at_sheet):
            state.swap()
            if at_checkpoint:
                journal.score(done, judge)
            if at_sheet and first:
                watch.sheet(done, judge.sheet())
            state.swap()
        if at_checkpoint:
            with TemporaryDirectory(prefix="checkpoint-") as folder:
                if first:
                    state.save(Path(folder), done, watch.log)
                report(journal.last, Path(folder) if first else None)
        journal.begin()  # neither scoring nor saving counts as training time
    accelerator.end_training()
    state.swap()
    return model


class _Objective(nn.Module):
    """The loss as a module's forward pass, so that data parallelism and autocast can wrap it."""

    def __init__(self, model: nn.Module, loss_of: Losses) -> None:
        super().__init__()
        self.model, self._loss_of = model, loss_of

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._loss_of(batch)


def _accelerator(precision: str, watch: Watch) -> Accelerator:
    on_gpu = torch.cuda.is_available()
    if precision == "fp16" and not on_gpu:
        raise ManifestError("fp16 needs a GPU", key="precision", value=precision, remedy="use bf16 or fp32")
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train twice, in other arithmetic
    # No buffer of ours changes; the frozen base's needn't be sent round at every step.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=not on_gpu,
        log_with=list(watch.trackers) or None,
        project_dir=str(watch.folder),
        kwargs_handlers=[parallel],
    )
    if watch.trackers:
        accelerator.init_trackers("tensorboard")  # TensorBoard's folder; MLflow's and W&B's project
    return accelerator


def _step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: Any,
    state: TrainState,
    batch: Batch,
    settings: FitSettings,
    total: int,
) -> dict[str, torch.Tensor]:
    """One optimiser step; returns this process's share of the mean losses over ``total`` samples, and the norm."""
    size = len(next(iter(batch.values())))
    parts = min(size, -(-settings.parts // accelerator.num_processes))  # of this process
    optimizer.zero_grad(set_to_none=True)
    shares: dict[str, torch.Tensor] = {}
    for k in range(parts):
        part = {name: v[k::parts].contiguous().to(accelerator.device, non_blocking=True) for name, v in batch.items()}
        share = len(next(iter(part.values()))) / total
        quiet = accelerator.no_sync(objective) if k + 1 < parts else nullcontext()
        with quiet:
            losses = objective(part)
            # Data parallelism takes the mean over processes; times their number it is the sum of the shares.
            accelerator.backward(losses["loss"] * (share * accelerator.num_processes))
        for name, value in losses.items():
            shares[name] = shares.get(name, 0) + value.detach().float() * share
    norm = accelerator.clip_grad_norm_(list(state.trained.values()), settings.clip_norm)
    optimizer.step()
    return shares | {"grad_norm": norm.detach().float() / accelerator.num_processes}  # the same in all: a share, too


class _Journal:
    """Keeps the losses on their device, and adds them up over processes only when a line is due."""

    def __init__(self, accelerator: Accelerator, watch: Watch, settings: FitSettings, start: int) -> None:
        self._accelerator, self._watch, self._settings = accelerator, watch, settings
        self._history: list[dict[str, torch.Tensor]] = []
        self._written, self._samples = start, 0
        self.last: dict[str, Any] = {"step": start}
        self.begin()

    def begin(self) -> None:
        """Start the clock, where a line was just written."""
        if not self._history:
            self._began = time.monotonic()

    def add(self, losses: dict[str, torch.Tensor], samples: int) -> None:
        """Keep one step's shares, of so many samples in all processes."""
        self._history.append(losses)
        self._samples += samples

    def close(self, done: int) -> None:
        """Add up what was kept, write a line, and stop the training if a loss is not a number.

        Raises:
            DivergedError: names the first step at fault.
        """
        if not self._history:
            return
        names = list(self._history[0])
        mine_SK = torch.stack([torch.stack([row[name] for name in names]) for row in self._history])
        values_SK = self._accelerator.reduce(mine_SK, "sum").double().cpu().numpy()
        seconds, steps = max(time.monotonic() - self._began, 1e-9), len(self._history)
        watched = ["loss"] if self._accelerator.scaler else ["loss", "grad_norm"]  # fp16 skips steps that overflow
        bad_S = ~np.isfinite(values_SK[:, [names.index(name) for name in watched]]).all(axis=1)
        if bad_S.any():
            at = self._written + int(bad_S.argmax())
            loss, norm = (values_SK[int(bad_S.argmax()), names.index(name)] for name in ("loss", "grad_norm"))
            raise DivergedError(
                f"the loss is {loss}, the gradient's norm {norm} at step {at}; the last checkpoint before it is kept; "
                "lower the learning rate (learning_rate), or use fp32 (precision)"
            )
        if self._accelerator.is_main_process:
            for i, values_K in enumerate(values_SK):
                self._accelerator.log(dict(zip(names, values_K.tolist(), strict=True)), step=self._written + i + 1)
            rate = {"steps_per_s": round(steps / seconds, 3), "images_per_s": round(self._samples / seconds, 3)}
            self._note(done, {"lr": learning_rate_at(done - 1, self._settings)} | means(names, values_SK) | rate)
        self._history, self._written, self._samples = [], done, 0

    def score(self, done: int, judge: Judge) -> None:
        """Score the averaged weights over all processes."""
        mine = torch.tensor(judge.score(), dtype=torch.float32, device=self._accelerator.device)
        total, count = self._accelerator.reduce(mine, "sum").tolist()
        scored = {"step": done, "validation_psnr": total / count}
        self.last = self.last | scored
        if self._accelerator.is_main_process:
            self._accelerator.log({"validation_psnr": total / count}, step=done)
            self._watch.line(scored)

    def _note(self, done: int, row: dict[str, Any]) -> None:
        self.last = {"step": done} | row
        self._accelerator.log({k: row[k] for k in ("lr", "images_per_s")}, step=done)
        self._watch.line(self.last)
