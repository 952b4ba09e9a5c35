"""``python -m jobs.benches.ablation [--steps N] [--tiles N] [--out DIR]``: what are the parts of an adapter worth?

The ablation of the paper's table 5 on the frozen compact base: each variant of each task is trained from nothing by its
shipped recipe, with equal steps, seed, samples and schedule, and restores the same degraded tiles of the *test*
photographs. Adapters have no fidelity path here, as the paper's have none. A finished variant is kept in DIR and not
trained again; an interrupted one goes on from its checkpoint. ``FDI_DATA`` names the folder of the pictures.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fdi_lib.core import metrics
from fdi_lib.core.protocol import Sample, as_float, quantise
from fdi_lib.errors import FDIError
from fdi_lib.manifest import TrainManifest
from fdi_lib.training.adapter import AdapterTraining, LossWeights
from fdi_lib.training.measure import scores
from jobs.benches.recipes import degraded, short, trained
from jobs.training.data import Clean, data_of
from jobs.training.plan import bank_of, plan_of

TASKS = ("haze", "low_light", "noise", "scratch")
# Variant -> adapter.parts, as in the paper's order; the frozen base by itself is an adapter that learnt nothing.
VARIANTS = {
    "base": "full",
    "modulator": "modulator",
    "addition": "addition",
    "decoupling": "decoupling",
    "full": "full",
}
_PAPER = {"base": 15.33, "modulator": 15.90, "decoupling": 21.49, "full": 24.14}  # average of its own four tasks
_TILES = 32


def run(out: Path, steps: int, count: int, tasks: Sequence[str], checkpoint_every: int) -> dict[str, Any]:
    """Train and measure what isn't there yet; print the table, write ``ablation.json`` and return what it holds.

    Raises:
        ManifestError: pictures are missing, or there is no recipe for a task.
        WeightsError: base, encoder or bank is missing.
    """
    rows: dict[str, dict[str, Any]] = {}
    for task in tasks:
        recipes = {
            variant: short(task, steps, checkpoint_every, f"adapter.parts={parts}")
            for variant, parts in VARIANTS.items()
        }
        rows[task] = compared(recipes, degraded(recipes["full"], "test", count), count, out)
    result = summary(rows) | {"steps": steps, "tiles": count}
    (out / "ablation.json").write_text(json.dumps(result, indent=1) + "\n")
    _print(result)
    return result


def compared(recipes: dict[str, TrainManifest], samples: Sequence[Sample], count: int, out: Path) -> dict[str, Any]:
    """Every variant of one task: ``psnr_in``, and by variant ``psnr_out`` in dB and ``parameters``.

    Args:
        recipes: training manifest by variant.
        samples: degraded tiles that each restores.
        count: of tiles that were asked for.
        out: where finished variants lie.
    """
    first = next(iter(recipes.values()))
    bank, data = bank_of(first), data_of(first)
    assert isinstance(data, Clean), "the recipes degrade clean pictures"
    figures: dict[str, Any] = {"psnr_in": _mean_psnr(samples, [s.pixels for s in samples])}
    for variant, manifest in recipes.items():
        plan = plan_of(manifest, data.identity, bank)
        plan = replace(plan, config=replace(plan.config, fidelity=False), weights=LossWeights(fidelity=0.0))
        kept = out / f"{manifest.task}-{variant}.json"
        key = {"recipe": plan.recipe, "tiles": count}
        if not (kept.is_file() and key.items() <= json.loads(kept.read_text()).items()):
            model = trained(plan, data.learnt, out / "training" / kept.stem) if variant != "base" else plan.model()
            parameters = sum(p.numel() for p in model.adapter.parameters()) * (variant != "base")
            found = {"psnr_out": _mean_psnr(samples, _restored(model, samples)), "parameters": parameters}
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(key | found) + "\n")
            part.rename(kept)
        told = json.loads(kept.read_text())
        figures[variant] = {name: told[name] for name in ("psnr_out", "parameters")}
        print(f"{manifest.task}, {variant}: {told['psnr_out']:.2f} dB", flush=True)
    return figures


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Add means over tasks, and whether the variants that the paper has come in its order."""
    mean = {name: float(np.mean([row[name]["psnr_out"] for row in rows.values()])) for name in VARIANTS}
    ours = [mean[name] for name in _PAPER]
    before = float(np.mean([row["psnr_in"] for row in rows.values()]))
    return {"tasks": rows, "mean": {"psnr_in": before} | mean, "as_in_the_paper": ours == sorted(ours)}


def _restored(model: AdapterTraining, samples: Sequence[Sample]) -> list[np.ndarray]:
    """The samples restored, uint8."""
    made = []
    for sample in samples:
        image_BCHW = torch.from_numpy(as_float(sample.pixels) * 2 - 1).permute(2, 0, 1)[None].contiguous()
        made.append(quantise(model.restore({"degraded": image_BCHW})[0].permute(1, 2, 0).numpy()))
    return made


def _mean_psnr(samples: Sequence[Sample], images: Sequence[np.ndarray]) -> float:
    return float(scores(metrics.psnr, samples, images).mean())


def _print(result: dict[str, Any]) -> None:
    rows = result["tasks"]
    table = Table("variant", "parameters", *rows, "mean", "the paper's mean")
    table.title = f"PSNR out, dB, after {result['steps']} steps ({result['tiles']} test tiles each)"
    before = [row["psnr_in"] for row in rows.values()]
    table.add_row("input", "", *(f"{value:.2f}" for value in [*before, result["mean"]["psnr_in"]]), "")
    for name in VARIANTS:
        values = [row[name]["psnr_out"] for row in rows.values()]
        size = next(iter(rows.values()))[name]["parameters"]
        shown = [f"{value:.2f}" for value in [*values, result["mean"][name]]]
        table.add_row(name, f"{size:,}", *shown, f"{_PAPER[name]:.2f}" if name in _PAPER else "")
    Console(width=120).print(table)
    print(f"base < modulator < decoupling < full, as in the paper: {'yes' if result['as_in_the_paper'] else 'no'}")


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m jobs.benches.ablation")
    parser.add_argument("--steps", type=int, default=400, help="of each training; the recipe's schedule ends with them")
    parser.add_argument("--tiles", type=int, default=_TILES, help="test tiles for each task")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps that an interruption costs at most")
    wanted = parser.parse_args()
    if "FDI_DATA" not in os.environ:
        sys.exit("set FDI_DATA to the folder that holds the pictures of docs/training-data.tsv")
    try:
        run(wanted.out, wanted.steps, wanted.tiles, wanted.tasks, wanted.checkpoint_every)
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
