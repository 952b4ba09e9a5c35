"""Runs the training loop in this process; checkpoints lie in a local folder.

Batches are made ahead: the next one in a thread or, where a GPU would wait for it, several in processes of their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from fdi_lib.training.loop import FitSettings, Judge, Losses
from fdi_lib.training.loop import fit as fit_shard
from fdi_lib.training.samples import Batch, echoed
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
    workers: int = 0,
    echo: int = 1,
) -> nn.Module:
    """Train in this process; see :func:`fdi_lib.training.loop.fit`.

    Args:
        model: holds the parameters.
        make_batch: number -> the whole batch; called ahead, must depend on the number only.
        loss_of: batch -> named scalar losses.
        settings: length and rates.
        folder: receives ``log.jsonl`` and ``checkpoint-STEP/``; a run found there is continued.
        trackers: where curves go, see :class:`fdi_lib.training.watch.Watch`.
        judge: scores every checkpoint.
        workers: processes that make batches, a whole one each; ``make_batch`` is pickled for them. 0: a thread does it.
        echo: steps that each batch is used for, see :func:`fdi_lib.training.samples.echoed`.
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

    def fresh(first: int, end: int) -> Iterator[Batch]:
        return batches(make_batch, first, end, workers)

    found = _checkpoints(folder)
    return fit_shard(
        model,
        lambda start: echoed(fresh, start, settings.steps, echo),
        loss_of,
        settings,
        keep,
        Watch(folder, trackers),
        last=found[-1] if found else None,
        judge=judge,
    )


def batches(make_batch: Callable[[int], Batch], first: int, end: int, workers: int) -> Iterator[Batch]:
    """Batches of these numbers, in order, made ahead: in so many processes, or in a thread."""
    return _in_processes(make_batch, first, end, workers) if workers else _ahead(make_batch, first, end)


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


class _Steps(Dataset[Batch]):
    """Batches by step."""

    def __init__(self, make_batch: Callable[[int], Batch]) -> None:
        self._make_batch = make_batch

    def __getitem__(self, step: int) -> Batch:
        return self._make_batch(step)


def _in_processes(make_batch: Callable[[int], Batch], start: int, steps: int, workers: int) -> Iterator[Batch]:
    """Batches in order. Processes are not forked: threads of libraries that this one has used would be missing."""
    loader = DataLoader(
        _Steps(make_batch),
        batch_size=None,
        sampler=range(start, steps),
        num_workers=workers,
        prefetch_factor=4,
        multiprocessing_context="forkserver",
        worker_init_fn=_yield_way,
    )
    return iter(loader)


def _yield_way(_: int) -> None:
    """The process that feeds the device comes first."""
    os.nice(5)
