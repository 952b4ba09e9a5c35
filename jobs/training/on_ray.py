"""Trains an adapter with Ray Train: a group of workers, each of which runs the plain loop of :mod:`fdi_lib.training`.

A killed worker or a lost node restarts the group from the last checkpoint; a killed driver is taken up by the next run
of the same recipe. Does NOT know how a manifest becomes a plan (``plan.py``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

import pyarrow.fs as pafs
import ray
import torch
from ray import train
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from fdi_lib.errors import FDIError, ManifestError, WeightsError
from fdi_lib.manifest import TrainManifest
from fdi_lib.training.adapter import HeldOut
from fdi_lib.training.checkpoint import LOG
from fdi_lib.training.crops import PairSource
from fdi_lib.training.loop import DivergedError, fit
from fdi_lib.training.samples import Batch, Shard, echoed, to_batch
from fdi_lib.training.watch import Watch
from jobs.capacity import Amount
from jobs.pulled import cause
from jobs.training.plan import Plan
from jobs.training.progress import Board
from jobs.training.storage import CHECKSUMS, filesystem
from jobs.training.stream import SharedPairs, batches

SCORE = "validation_psnr"
_GIB = 2**30
R = TypeVar("R")


@dataclass(frozen=True)
class Trained:
    """Two checkpoints' averaged weights with their scores; ``best`` may be ``last``."""

    best: dict[str, Any]
    last: dict[str, Any]
    folder: Path  # of the best checkpoint's files, local
    log: str


def train_on_ray(plan: Plan, pairs: PairSource, held_out: PairSource) -> Trained:
    """Run, or go on with, the training of a plan on the cluster that this process has joined.

    Raises:
        DivergedError: the loss is not a number.
        ManifestError: kept latents need too much memory.
        FDIError: a user's mistake that only a worker could see, a full disk, or workers that died too often.
    """
    m = plan.manifest
    files, path = filesystem(m.checkpoint.uri or f"{m.output}.training", m.storage)
    # Relative paths and the package itself are found from where the driver is.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    on_gpu = m.worker.gpus > 0
    resources = {"CPU": m.worker.cpus, "memory": m.worker.memory_gib * _GIB} | (
        {"GPU": m.worker.gpus} if on_gpu else {}
    )
    with Board(m.steps) as board:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "plan": plan, "pairs": SharedPairs(pairs), "held_out": SharedPairs(held_out),
                "crops": plan.crops(len(pairs)), "files": files, "folder": f"{path}/{_name(plan)}",
                "board": board.actor,
            },
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=m.workers, use_gpu=on_gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name=_name(plan),
                storage_path=path,
                storage_filesystem=files,
                failure_config=FailureConfig(max_failures=m.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=SCORE),
                worker_runtime_env={"env_vars": CHECKSUMS},
            ),
        )  # fmt: skip
        # In a thread: in the main one Ray Train takes Ctrl-C for itself.
        thread = ThreadPoolExecutor(1)
        try:
            result = thread.submit(trainer.fit).result()
        except train.TrainingFailedError as error:
            raise _said(error, plan) from error
        finally:
            thread.shutdown(wait=False)
    if isinstance(result.return_value, FDIError):
        raise result.return_value
    return _trained(result)


def on_a_worker(manifest: TrainManifest, work: Callable[..., R], *given: Any) -> R:
    """Do something else that needs what a training worker has, a GPU above all, in one worker's place.

    Args:
        manifest: of the training; the process has joined the cluster.
        work: a function of a module; what it is given and what it returns travels.
        given: its arguments.
    """
    worker = manifest.worker
    memory = int(worker.memory_gib * _GIB)
    task = ray.remote(work).options(num_cpus=worker.cpus, num_gpus=worker.gpus, memory=memory)
    try:
        result: R = ray.get(task.remote(*given))
    except RayTaskError as error:
        raise cause(error) from None
    except (OutOfMemoryError, WorkerCrashedError, NodeDiedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FDIError(
            f"a worker died ({reason}); run again, with more worker.memory_gib if it lacked memory"
        ) from None
    return result


def _name(plan: Plan) -> str:
    return f"{'+'.join(plan.manifest.names)}-{plan.recipe[:12]}"


def _worker(given: Mapping[str, Any]) -> FDIError | None:
    """One worker's life. What stops all workers alike is returned: starting them again wouldn't help."""
    plan: Plan = given["plan"]
    m, context = plan.manifest, train.get_context()
    torch.set_num_threads(max(1, int(m.worker.cpus)))
    shard = Shard(context.get_world_rank(), context.get_world_size(), m.batch)
    try:
        if m.precision == "fp16" and not torch.cuda.is_available():
            raise ManifestError("fp16 needs a GPU", key="precision", value="fp16", remedy="use bf16 or fp32")
        model = plan.model()
        samples = model.samples(given["pairs"], m.crop_px, m.seed, given["crops"])
        judged = model.samples(given["held_out"], m.crop_px, m.seed)
        judge = HeldOut(model, judged, m.watch.validation_crops, shard.rank, shard.world)
        with _Desk(given["files"], given["folder"], given["board"], first=shard.rank == 0) as desk:
            watch = Watch(desk.folder, m.watch.trackers, m.watch.images_every_steps, desk.tell)

            def fresh(first: int, end: int) -> Iterator[Batch]:
                return map(to_batch, batches(samples, shard, first, end, m.worker))

            def batches_from(start: int) -> Iterator[Batch]:
                return echoed(fresh, start, m.steps, m.echo)

            fit(model, batches_from, model.losses, plan.settings, desk.report, watch,
                shard=shard, last=desk.last, judge=judge)  # fmt: skip
        model.finish()
    except (DivergedError, ManifestError, WeightsError) as stopped:
        return stopped
    return None


class _Desk:
    """What a worker writes, on its way to where it is kept: checkpoints through Ray Train, the rest beside them."""

    def __init__(self, files: pafs.FileSystem, folder: str, board: Any, *, first: bool) -> None:
        self._files, self._to, self._board = files, folder, board
        self._own = Path(mkdtemp(prefix="fdi-train-"))
        self.last: Path | None = None
        local = isinstance(files, pafs.LocalFileSystem)
        self.folder = Path(folder) if local and first else self._own / "watch"
        self._carries = first and not local
        checkpoint = train.get_checkpoint()
        if checkpoint is not None:
            self.last = Path(checkpoint.to_directory(str(self._own / "last")))

    def tell(self, row: Mapping[str, Any]) -> None:
        """Show a line of the log to the driver; waits for nobody."""
        self._board.tell.remote(dict(row))

    def report(self, metrics: dict[str, Any], folder: Path | None) -> None:
        """Hand a checkpoint to Ray Train: every worker at once."""
        if self._carries:
            pafs.copy_files(str(self.folder), self._to, destination_filesystem=self._files, use_threads=False)
        train.report(
            metrics,
            checkpoint=train.Checkpoint.from_directory(str(folder)) if folder else None,
            checkpoint_dir_name=f"step-{metrics['step']:09d}",
        )

    def __enter__(self) -> _Desk:
        return self

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self._own, ignore_errors=True)


def _trained(result: train.Result) -> Trained:
    assert result.best_checkpoints and result.metrics, "a finished training has a checkpoint"
    best, metrics = max(result.best_checkpoints, key=lambda found: (found[1][SCORE], found[1]["step"]))
    folder = Path(best.to_directory(mkdtemp(prefix="fdi-trained-")))
    last = Path(result.checkpoint.to_directory(mkdtemp(prefix="fdi-last-")))
    log = (last / LOG).read_text()
    shutil.rmtree(last)
    return Trained(metrics, result.metrics, folder, log)


def _said(error: BaseException, plan: Plan) -> FDIError:
    """Our error for Ray Train's, with the reason that a worker gave."""
    failures = list(getattr(error, "worker_failures", {}).values())
    chain: list[BaseException] = []
    for start in [*failures, error]:
        seen: BaseException | None = start
        while seen is not None and seen not in chain:
            chain.append(seen)
            seen = getattr(seen, "cause", None) or seen.__cause__
    for found in chain:
        if isinstance(found, FDIError):
            return found
    m = plan.manifest
    where = m.checkpoint.uri or f"{m.output}.training"
    if any("No space left" in str(found) or "Disk quota" in str(found) for found in chain):
        return FDIError(f"{where}: the disk is full; free space and run again: it goes on at the last checkpoint")
    reason = str(failures[0] if failures else error).strip().splitlines()[-1]
    return FDIError(
        f"training workers died {m.max_failures + 1} times ({reason}); "
        "run again to go on at the last checkpoint, with more worker.memory_gib where they lacked memory"
    )


def needs(manifest: TrainManifest) -> list[tuple[Amount, int]]:
    """The smallest group of workers."""
    worker, workers = manifest.worker, manifest.workers
    fewest = workers[0] if isinstance(workers, tuple) else workers
    return [(Amount(worker.cpus, worker.gpus, worker.memory_gib * _GIB), fewest)]
