"""``python -m jobs.training.alone MANIFEST... [key=value ...] [--workers N]``: trainings in this process, one by one.

The same as ``fdi train`` of each manifest in turn, for one machine without Ray: a GPU that is rented for some minutes,
say. Samples depend on their index alone, so the same steps are taken; ``--workers`` processes make them ahead. Learns
from clean pictures only; an adapter keeps its last averaged weights. Does NOT know pairs of somebody's own.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch

from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.manifest import TrainManifest, load_manifest
from fdi_lib.models.device import accelerator
from fdi_lib.training.adapter import HeldOut, train_adapter
from fdi_lib.training.pictures import shared
from jobs.training import compact
from jobs.training.data import Clean, data_of, synthetic
from jobs.training.output import check_free, finished
from jobs.training.plan import Plan, absolute, bank_of, plan_of
from jobs.training.result import publish_trained
from jobs.training.storage import local_folder


def run(manifest: TrainManifest, workers: int) -> dict[str, Any]:
    """Train what the manifest names in this process; return the summary.

    Raises:
        ManifestError: a setting or the data can't be used.
        WeightsError: base, encoder or bank is missing or doesn't fit.
        DivergedError: the loss is not a number; the last checkpoint is kept.
    """
    if manifest.model != "adapter":
        return compact.run(manifest, workers)
    manifest = absolute(manifest)
    check_free(manifest)
    bank, data = bank_of(manifest), data_of(manifest)
    if not isinstance(data, Clean):
        remedy = "use kind: clean, or `fdi train`"
        raise ManifestError("pairs are checked on Ray", key="data.kind", value=manifest.data.kind, remedy=remedy)
    plan = plan_of(manifest, data.identity, bank)
    found = finished(manifest, plan.recipe)
    if found is not None:
        return found | {"output": manifest.output, "already_done": True}
    work = local_folder(manifest.checkpoint.uri or f"{manifest.output}.training") / f"alone-{plan.recipe[:12]}"
    weights, last = _trained(plan, data, work, workers)
    summary = plan.summary(len(data.learnt), len(data.held_out), data.pictures) | {"best": last, "last": last}
    summary = publish_trained(plan, weights, bank, (work / "log.jsonl").read_text(), summary)
    return summary | {"output": manifest.output, "already_done": False}


def _trained(plan: Plan, data: Clean, work: Path, workers: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The averaged weights, and the last line of the log."""
    m, model = plan.manifest, plan.model()
    model.to(accelerator())
    learnt = synthetic(shared(data.learnt.tiles, work / "tiles.npy", workers), data.damage)
    judge = HeldOut(model, model.samples(data.held_out, m.crop_px, m.seed), m.watch.validation_crops)
    sizes: dict[str, int] = {"batch": m.batch, "crop_px": m.crop_px, "seed": m.seed, "echo": m.echo}
    sizes["crops"] = plan.crops(len(learnt))
    adapter = train_adapter(model, learnt, plan.settings, **sizes, folder=work, judge=judge, workers=workers)
    return adapter.cpu().state_dict(), json.loads((work / "log.jsonl").read_text().splitlines()[-1])


def main(argv: list[str]) -> int:
    """Train each manifest in turn; print a summary of each."""
    parser = ArgumentParser(prog="python -m jobs.training.alone", description=__doc__)
    parser.add_argument("given", nargs="+", metavar="MANIFEST | key=value")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches; 0: a thread does it")
    options = parser.parse_args(argv)
    changes = [text for text in options.given if "=" in text]
    try:
        for path in (text for text in options.given if "=" not in text):
            manifest = load_manifest(path, changes, "train")
            assert isinstance(manifest, TrainManifest), "the kind that was asked for"
            print(json.dumps(run(manifest, options.workers)), flush=True)
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ManifestError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
