"""``fdi train`` of an adapter: a plan is carried out on the cluster, and an adapter folder is what comes of it.

With pairs of somebody's own they are checked before, and the adapter is measured on some of them afterwards
(``pairs.py``). Does NOT know the loop (:mod:`fdi_lib.training.loop`) nor how workers run it (``on_ray.py``).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

from safetensors.torch import load_file

from fdi_lib.manifest import TrainManifest
from fdi_lib.models.presets import describe
from fdi_lib.training.checkpoint import AVERAGE
from fdi_lib.training.crops import PairSource
from jobs.pool import joined
from jobs.training import pairs
from jobs.training.data import Clean, data_of
from jobs.training.on_ray import needs, train_on_ray
from jobs.training.output import check_free, finished
from jobs.training.plan import bank_of, plan_of
from jobs.training.result import publish_trained

_PREFIX = "adapter."  # of the trained parameters' names, see AdapterTraining


def run(manifest: TrainManifest) -> dict[str, Any]:
    """Train what the manifest names; return the summary.

    Raises:
        ManifestError: a setting or the data can't be used.
        RunConflictError: the output is not this training's.
        WeightsError: base, encoder or bank is missing or doesn't fit.
        DivergedError: the loss is not a number; the last checkpoint is kept.
    """
    check_free(manifest)
    bank, data = bank_of(manifest), data_of(manifest)
    plan = plan_of(manifest, data.identity if isinstance(data, Clean) else [], bank)
    if not isinstance(data, Clean):
        # Adapters that it will be measured beside must belong to the same models: said now, not after the training.
        describe(pairs.folders_with(manifest, None), "custom")
        kept = 1 - manifest.data.validation_fraction  # an estimate: said before pairs are checked, for minutes
        plan.crops(int(kept * len(data)))
    summary: dict[str, Any] = {}
    with joined(needs(manifest), manifest.wait_s):
        own = None
        learnt: PairSource
        held_out: PairSource
        if isinstance(data, Clean):
            learnt, held_out, pictures = data.learnt, data.held_out, data.pictures
        else:
            own = pairs.checked(manifest, data, bank)
            plan = replace(plan_of(manifest, own.identity, bank), fdi=own.entry.tokens_TD)
            learnt, held_out, pictures = own.learnt, own.held_out, len(own.learnt)
        found = finished(manifest, plan.recipe)
        if found is not None:
            return found | {"output": manifest.output, "already_done": True}
        if own:
            summary |= {"left_out": own.left_out} | pairs.calibrated(bank, own.entry)
            bank = bank.with_entry(own.entry)
        trained = train_on_ray(plan, learnt, held_out)
        weights = {k.removeprefix(_PREFIX): value for k, value in load_file(trained.folder / AVERAGE).items()}
        shutil.rmtree(trained.folder)
        summary = plan.summary(len(learnt), len(held_out), pictures) | summary
        summary |= {"best": trained.best, "last": trained.last}
        measured = (lambda folder: pairs.measured(manifest, own, folder)) if own else None
        summary = publish_trained(plan, weights, bank, trained.log, summary, measured)
    return summary | {"output": manifest.output, "already_done": False}
