"""``python -m jobs.benches.starts [--tasks TASK ...] [--tiles N] [--long] [--out DIR]``: where should sampling start?

Restores the same degraded tiles of the *calibration* photographs with every schedule of a grid (start, level, steps,
window of guidance), for each shipped compact adapter, and prints PSNR, SSIM and time. It may decide an adapter's
sampling defaults: the test pictures take no part. An adapter was trained for its own start and level, so the table
shows what its sampling default costs or gains, **not** what an adapter trained for another start would reach. For that,
``--train --tasks TASK --steps N`` trains one by the shipped recipe for each start and level, with equal steps and
samples, and compares these, each at its own.

Rows are kept in ``starts.json`` one by one; an interrupted run goes on. ``FDI_DATA`` names the folder of the pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fdi_lib.core import metrics
from fdi_lib.core.protocol import Sample
from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.manifest import ModelSettings, StorageSettings
from fdi_lib.manifest.restoring import Init
from fdi_lib.models.base_files import fetch_base
from fdi_lib.models.presets import (
    ModelFolders,
    describe,
    encoder_files,
    model_folders,
)
from fdi_lib.models.sampling import Schedule
from fdi_lib.storage.store import Store
from fdi_lib.training.measure import scores
from jobs.benches.recipes import TILE_PX, degraded, recipe, short, trained
from jobs.benches.starts_table import (
    LONG_STEPS,
    STEPS,
    Row,
    Sampler,
    compared,
    grid,
    levels,
    measured,
    print_summary,
    print_table,
    summary,
    with_steps,
)
from jobs.training.data import Clean, data_of
from jobs.training.plan import bank_folder, bank_of, plan_of

_FILE = "starts.json"
_TILES = 12
_WHOSE = {"shipped": "shipped", "trained": "the recipe's"}
TRAINED_STARTS: tuple[Init, ...] = ("input", "noised_input")  # the ones that a training knows


@dataclass(frozen=True)
class Bench:
    """What is the same for every task.

    Args:
        out: folder of ``starts.json``, and of what is trained.
        tiles: for each task, of the adapter's own schedule and of others with few steps that come near it.
        steps: numbers of steps of the schedules.
        tile_px: side of a tile.
    """

    out: Path
    tiles: int = _TILES
    steps: Sequence[int] = STEPS
    tile_px: int = TILE_PX

    def shipped(self, tasks: Sequence[str], folders: ModelFolders) -> list[Row]:
        """Compare schedules of trained adapters: print a table for each task and one of all, return the latter.

        Args:
            tasks: names among the adapters.
            folders: of the adapters and their base.

        Raises:
            ManifestError: no adapter or no recipe of a name, or pictures are missing.
            WeightsError: weights are missing or don't belong together.
        """
        for task in tasks:
            if task not in folders.adapters:
                remedy = f"use some of: {', '.join(folders.adapter_names())}"
                raise ManifestError("no adapter of this name", key="--tasks", value=task, remedy=remedy)
        folders = replace(folders, adapters={task: folders.adapters[task] for task in tasks})
        made_of, sampler = describe(folders, "custom"), Sampler(folders, self.tile_px)
        rows = []
        for task in tasks:
            wanted = [(task, schedule) for schedule in grid(sampler.own(task), self.steps)]
            samples = degraded(recipe(task), "calibration", self.tiles, self.tile_px)
            models = [made_of["base"], made_of["adapters"][task]]
            rows.append(self._compare("shipped", task, sampler, wanted, samples, models))
        self._finish("shipped", rows)
        return rows

    def trained(self, tasks: Sequence[str], steps: int, checkpoint_every: int) -> list[Row]:
        """Train an adapter of each task for each start and level, and compare them, each at its own; as above.

        Args:
            tasks: that have a recipe.
            steps: of each training.
            checkpoint_every: steps that an interruption costs at most.

        Raises:
            ManifestError: there is no recipe for a task, or pictures are missing.
            WeightsError: base, encoder or bank is missing.
        """
        rows = []
        for task in tasks:
            starts, folders = self._trained(task, steps, checkpoint_every)
            made_of, sampler = describe(folders, "custom"), Sampler(folders, self.tile_px)
            wanted = [(name, schedule) for name, start in starts.items() for schedule in with_steps(start, self.steps)]
            samples = degraded(recipe(task), "calibration", self.tiles, self.tile_px)
            models = [made_of["base"], made_of["adapters"]]
            rows.append(self._compare("trained", task, sampler, wanted, samples, models))
        self._finish("trained", rows)
        return rows

    def _trained(self, task: str, steps: int, checkpoint_every: int) -> tuple[dict[str, Schedule], ModelFolders]:
        """By name the start of each adapter, the recipe's first, and their folders; what isn't there yet is trained."""
        own = recipe(task)
        bank, data = bank_of(own), data_of(own)
        assert isinstance(data, Clean), "the recipes degrade clean pictures"
        inits = dict.fromkeys((own.init, *TRAINED_STARTS))  # the recipe's own first
        starts: dict[str, Schedule] = {}
        for start in [Schedule(init, level, 1, 1.0) for init in inits for level in levels(own.start_t)]:
            changes = f"init={start.init}", f"start_t={start.start_t}"
            plan = plan_of(short(task, steps, checkpoint_every, *changes), data.identity, bank)
            name = f"{task}-{start.init}-{start.start_t:g}"
            folder = self.out / "trained" / f"{name}-{plan.recipe[:12]}"
            if not folder.is_dir():
                print(f"training {name}", flush=True)
                adapter = trained(plan, data.learnt, self.out / "training" / name).adapter
                part = folder.with_name(f"{folder.name}.part")
                bank.save_fdi(task, part)
                adapter.save_pretrained(part)
                part.rename(folder)
            starts[folder.name] = start
        adapters = {name: self.out / "trained" / name for name in starts}
        encoder, base = encoder_files(own.models.encoder).folder, fetch_base(plan.base.uri, plan.base.revision)
        return starts, ModelFolders(encoder, base, bank_folder(own), adapters)

    def _compare(
        self,
        part: str,
        task: str,
        sampler: Sampler,
        wanted: Sequence[tuple[str, Schedule]],
        samples: Sequence[Sample],
        models: list[Any],
    ) -> Row:
        """Measure what isn't there yet, print the task's table and return its summary."""
        inputs = [s.pixels for s in samples]
        pixels = hashlib.sha256(b"".join(s.pixels.tobytes() + s.tile.pixels.tobytes() for s in samples)).hexdigest()
        of = hashlib.sha256(json.dumps([models, pixels]).encode()).hexdigest()
        psnr_in, ssim_in = (float(scores(score, samples, inputs).mean()) for score in (metrics.psnr, metrics.ssim))
        told = self._told()
        entry = told.setdefault(part, {}).get(task, {})
        if entry.get("of") != of:  # of other weights or tiles: none of what is there counts
            entry = told[part][task] = {"of": of, "psnr_in": psnr_in, "ssim_in": ssim_in, "rows": []}
        found = compared(measured(sampler, wanted, samples, entry["rows"], lambda: self._keep(told)))
        title = f"{task}: {len(samples)} tiles, input {psnr_in:.2f} dB, SSIM {ssim_in:.3f}"
        print_table(title, found, _WHOSE[part])
        return summary(task, psnr_in, found)

    def _finish(self, part: str, rows: list[Row]) -> None:
        self._keep(self._told() | {f"summary_{part}": rows})
        print_summary(rows, _WHOSE[part])

    @property
    def _store(self) -> Store:
        return Store.open(str(self.out), StorageSettings())

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._store.read(_FILE)) if self._store.exists(_FILE) else {}
        return {"split": "calibration"} | told

    def _keep(self, told: dict[str, Any]) -> None:
        self._store.replace(_FILE, json.dumps(told, indent=1).encode() + b"\n")


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m jobs.benches.starts")
    parser.add_argument("--tasks", nargs="+", help="adapters; without it all that are shipped")
    parser.add_argument("--tiles", type=int, default=_TILES, help="for each task, of the schedules that contend")
    parser.add_argument("--long", action="store_true", help="50 steps, too")
    parser.add_argument("--out", type=Path, default=Path("out/starts"))
    parser.add_argument("--train", action="store_true", help="compare adapters trained for each start, not schedules")
    parser.add_argument("--steps", type=int, default=400, help="--train: of each training; its schedule ends with them")
    parser.add_argument("--checkpoint-every", type=int, default=100, help="--train: what an interruption costs at most")
    parser.add_argument("--threads", type=int, help="of torch; 1, but for --train")
    given = parser.parse_args()
    if given.train and not given.tasks:
        parser.error("--train needs --tasks: six adapters are trained for each")
    if "FDI_DATA" not in os.environ:
        sys.exit("set FDI_DATA to the folder that holds the pictures of docs/training-data.tsv")
    if given.threads or not given.train:  # threads that wait for one another use up CPU time where others compute, too
        torch.set_num_threads(given.threads or 1)
    bench = Bench(given.out, given.tiles, LONG_STEPS if given.long else STEPS)
    try:
        if given.train:
            bench.trained(given.tasks, given.steps, given.checkpoint_every)
        else:
            folders = model_folders(ModelSettings())
            bench.shipped(given.tasks or folders.adapter_names(), folders)
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
