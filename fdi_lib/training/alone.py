"""Runs the training loop in this process: the next batch is made in a thread, checkpoints lie in a local folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import nn

from fdi_lib.training.loop import FitSettings, Judge, Losses
from fdi_lib.training.loop import fit as fit_shard
from fdi_lib.training.samples import Batch
from fdi_lib.training.watch import Watch


def fit(
    model: nn.Module,
    make_batch: Callable[[int], Batch],
    loss_of: Losses,
    settings: FitSettings,
    folder: Path,
    *,
    trackers: tuple[str, ...] = ("tensorboard",),
    judge: Judge | None = None,
) -> nn.Module:
    """Train in this process; see :func:`fdi_lib.training.loop.fit`.

    Args:
        model: holds the parameters.
        make_batch: step number -> the whole batch; called ahead in a thread, must depend on the step only.
        loss_of: batch -> named scalar losses.
        settings: length and rates.
        folder: receives ``log.jsonl`` and ``checkpoint-STEP/``; a run found there is continued.
        trackers: where curves go, see :class:`fdi_lib.training.watch.Watch`.
        judge: scores every checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def keep(metrics: dict[str, Any], new: Path | None) -> None:
        assert new is not None, "one process has every checkpoint"
        part = folder / "checkpoint.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(new, part)
        older = _checkpoints(folder)
        os.replace(part, folder / f"checkpoint-{metrics['step']:09d}")
        for path in older:
            shutil.rmtree(path)

    found = _checkpoints(folder)
    return fit_shard(
        model,
        lambda start: _ahead(make_batch, start, settings.steps),
        loss_of,
        settings,
        keep,
        Watch(folder, trackers),
        last=found[-1] if found else None,
        judge=judge,
    )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"))


def _ahead(make_batch: Callable[[int], Batch], start: int, steps: int) -> Iterator[Batch]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(make_batch, start)
        for step in range(start + 1, steps + 1):
            batch = pending.result()
            if step < steps:
                pending = pool.submit(make_batch, step)
            yield batch
