"""How fast the trainer is, and whether several workers learn what one learns: ``python -m jobs.benches.trainer``.

Throughput: the trainer as ``fdi train`` runs it (Ray Train, Ray Data, Accelerate, log, averaged weights) against a bare
PyTorch loop of the same step, one after the other, several times; steady state, without start-up and checkpoints.
Curve: one and two workers on the same samples, loss at every step. Needs no data: tiles are made.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fdi_lib.core.degrade.fields import smooth_field
from fdi_lib.manifest import CheckpointSettings, TrainManifest
from fdi_lib.models.adapter import AdapterConfig
from fdi_lib.models.presets import compact_folder
from fdi_lib.models.stable_diffusion import load_base
from fdi_lib.training.adapter import LossWeights
from fdi_lib.training.loop import learning_rate_at
from fdi_lib.training.pairs import SyntheticPairs
from fdi_lib.training.samples import Samples, Shard, to_batch
from jobs.pool import joined
from jobs.training.on_ray import needs, train_on_ray
from jobs.training.plan import Plan

log = logging.getLogger(__name__)
_TASK = "noise"


def tiles(count: int, side: int) -> np.ndarray:
    """Smooth coloured tiles, uint8 N,S,S,3."""
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        made.append(np.stack([smooth_field((side, side), rng, 12.0, octaves=3) for _ in range(3)], axis=2))
    return (np.clip(np.stack(made), 0, 1) * 255).astype(np.uint8)


def plan(folder: Path, base: Path, **keys: Any) -> Plan:
    """A plan without a bank: tokens are drawn, everything else is the trainer's own."""
    values = {"kind": "train", "task": _TASK, "data": {"uri": "/nowhere"}, "output": str(folder / "out"),
              "checkpoint": {"every_steps": 10**6}, "worker": {"memory_gib": 1}}  # fmt: skip
    manifest = TrainManifest.model_validate(values | keys)
    fdi = np.random.default_rng(0).normal(size=(16, 128)).astype(np.float32)
    config = AdapterConfig.for_base(load_base(base), _TASK, (16, 128), init=manifest.init, start_t=0.35)
    return Plan(manifest, "0" * 64, config, CheckpointSettings(uri=str(base)), fdi, LossWeights())


def trainer(made: Plan, pairs: SyntheticPairs) -> list[dict[str, Any]]:
    """Run the trainer; return the lines of its log."""
    with joined(needs(made.manifest), made.manifest.wait_s):
        trained = train_on_ray(made, pairs, pairs)
    return [row for row in map(json.loads, trained.log.splitlines()) if "loss" in row]


def bare_steps_per_s(made: Plan, pairs: SyntheticPairs, skip: int) -> float:
    """The same step in a plain PyTorch loop; samples come from a DataLoader with as many workers as data tasks."""
    m, model = made.manifest, made.model()
    torch.set_num_threads(max(1, int(m.worker.cpus)))
    torch.set_flush_denormal(True)  # as the trainer does
    samples = model.samples(pairs, m.crop_px, m.seed)
    loader = DataLoader(
        _Steps(samples, Shard(0, 1, m.batch), m.steps),
        batch_size=None,
        num_workers=m.worker.data_tasks,
        prefetch_factor=m.worker.prefetch_batches,
    )
    parameters = list(model.adapter.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=m.learning_rate, betas=(0.9, 0.99), weight_decay=m.weight_decay)
    began = time.monotonic()
    for step, batch in enumerate(loader):
        if step == skip:
            began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, made.settings)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=m.precision == "bf16"):
            loss = model.losses(batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, m.clip_norm)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - m.ema_decay)
    return (m.steps - skip) / (time.monotonic() - began)


class _Steps(Dataset[Any]):
    """The batches of a training, by step."""

    def __init__(self, samples: Samples, shard: Shard, steps: int) -> None:
        self._samples, self._shard, self._steps = samples, shard, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Any:
        if step >= self._steps:
            raise IndexError(step)
        return to_batch(self._samples.rows(self._shard.indices(step)))


def throughput(base: Path, steps: int, repeats: int, **step: Any) -> dict[str, Any]:
    """Steps per second of trainer and bare loop, interleaved; the first fifth of the steps isn't counted.

    Args:
        base: folder of a base.
        steps: of a run.
        repeats: interleaved pairs of runs.
        step: what a step is: ``batch``, ``crop_px``, ``precision``; computed at once, as the bare loop does.
    """
    pairs, skip = SyntheticPairs(tiles(200, 144), _TASK), steps // 5
    found: dict[str, list[float]] = {"trainer": [], "bare": []}
    for i in range(repeats):
        with TemporaryDirectory(prefix="fdi-bench-") as folder:
            every = {"log_every_steps": skip, "validation_crops": 8}
            made = plan(Path(folder), base, steps=steps, parts=1, watch=every, **step)
            rows = trainer(made, pairs)[1:]
            found["trainer"].append(len(rows) / sum(1 / row["steps_per_s"] for row in rows))
            found["bare"].append(bare_steps_per_s(made, pairs, skip))
        ratio = found["trainer"][-1] / found["bare"][-1]
        print(
            f"pair {i + 1}: trainer {found['trainer'][-1]:.3f} steps/s, bare {found['bare'][-1]:.3f}, ratio {ratio:.3f}"
        )
    ratios = [t / b for t, b in zip(found["trainer"], found["bare"], strict=True)]
    return {"ratio": round(median(ratios), 3), **{k: [round(v, 3) for v in values] for k, values in found.items()}}


def curve(base: Path, steps: int) -> dict[str, Any]:
    """The largest relative difference between the loss curves of one and of two workers; fp32, uneven shards."""
    pairs = SyntheticPairs(tiles(40, 64), _TASK)
    curves = []
    for workers in (1, 2):
        with TemporaryDirectory(prefix="fdi-bench-") as folder:
            every = {"log_every_steps": 1, "validation_crops": 4}
            made = plan(Path(folder), base, steps=steps, batch=5, crop_px=32, workers=workers, watch=every)
            worker = made.manifest.worker.model_copy(update={"cpus": 0.5})
            made = replace(made, manifest=made.manifest.model_copy(update={"worker": worker}))
            curves.append(np.array([row["loss"] for row in trainer(made, pairs)]))
    one, two = curves
    assert len(one) == len(two) == steps
    return {"steps": steps, "largest_relative_difference": float((np.abs(two - one) / one).max()),
            "loss": [float(one[0]), float(one[-1])]}  # fmt: skip


def main() -> int:
    """Run the sections that are asked for; print their tables and one JSON object."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--sections", nargs="+", choices=("throughput", "curve"), default=["throughput", "curve"])
    parser.add_argument("--base", type=Path, default=compact_folder() / "base", help="folder of a base")
    parser.add_argument("--steps", type=int, default=100, help="of a throughput run")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved pairs of throughput runs")
    parser.add_argument("--batch", type=int, default=32, help="of a throughput run; the shipped recipes have 32")
    parser.add_argument("--crop-px", type=int, default=128, help="of a throughput run; the shipped recipes have 128")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    args = parser.parse_args()
    result: dict[str, Any] = {}
    if "throughput" in args.sections:
        step = {"batch": args.batch, "crop_px": args.crop_px, "precision": args.precision}
        result["throughput"] = throughput(args.base, args.steps, args.repeats, **step)
        print(f"trainer over bare loop, median: {result['throughput']['ratio']}")
    if "curve" in args.sections:
        result["curve"] = curve(args.base, 200)
        print(f"one and two workers: {result['curve']['largest_relative_difference']:.2e} over 200 steps")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
