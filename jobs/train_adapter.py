"""``fdi train`` of an adapter: from the manifest to a plan, from the trained weights to an adapter folder.

Everything that can't work is said before anything starts. Does NOT know the loop (:mod:`fdi_lib.training.loop`) nor how
workers run it (``train_ray.py``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from fdi_lib.core.degrade import NAMES
from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import CheckpointSettings, TrainManifest
from fdi_lib.manifest.locations import local_path
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.base_files import base_sha256, fetch_base
from fdi_lib.models.checkpoints import file_sha256, is_repository
from fdi_lib.models.presets import compact_folder, describe, encoder_files
from fdi_lib.models.stable_diffusion import load_base
from fdi_lib.models.weights import read_config
from fdi_lib.storage.pairs import PairRef
from fdi_lib.storage.store import Store
from fdi_lib.training.adapter import NOISY_STARTS, LossWeights
from fdi_lib.training.checkpoint import AVERAGE
from fdi_lib.training.pairs import PairSource, SyntheticPairs, gather, split
from fdi_lib.training.pictures import identity_of, read_list, training_tiles
from jobs import train_pairs
from jobs.cards import adapter_card
from jobs.pool import joined
from jobs.train_ray import Plan, needs, train_on_ray, worker_needs
from jobs.train_storage import publish

log = logging.getLogger(__name__)
TILE_PX = 144
# What may change between two runs of the same training; weights count by their hashes, wherever they lie.
_FREE = {"output": True, "workers": True, "worker": True, "max_failures": True, "checkpoint": True, "watch": True,
         "storage": True, "wait_s": True, "models": True, "initial": True,
         "data": {"uri", "pictures", "cache_mib", "storage"}}  # fmt: skip
_PREFIX = "adapter."  # of the trained parameters' names, see AdapterTraining


def run(manifest: TrainManifest) -> dict[str, Any]:
    """Train what the manifest names; return the summary.

    Raises:
        ManifestError: a setting or the data can't be used.
        WeightsError: base, encoder or bank is missing or doesn't fit.
        DivergedError: the loss is not a number; the last checkpoint is kept.
    """
    manifest = _absolute(manifest)
    bank, data = bank_of(manifest), data_of(manifest)
    plan = plan_of(manifest, data.identity if isinstance(data, _Clean) else [], bank)
    output = Store.open(manifest.output, manifest.storage)
    output.check(for_writing=True)
    summary: dict[str, Any] = {"model": "adapter", "task": manifest.task}
    with joined(needs(manifest), manifest.wait_s, [worker_needs(manifest)]):
        own = None
        if isinstance(data, _Clean):
            learnt, held_out, pictures = data.learnt, data.held_out, data.pictures
        else:
            encoder = encoder_files(manifest.models.encoder).load()
            own = train_pairs.checked(manifest, data, encoder, bank)
            plan = replace(plan_of(manifest, own.identity, bank), fdi=own.entry.tokens_TD)
            learnt, held_out, pictures = own.learnt, own.held_out, len(own.learnt)
        found = _finished(output, plan.recipe)
        if found is not None:
            return found | {"output": manifest.output, "already_done": True}
        summary["training_sha256"] = plan.recipe
        if own:
            summary |= {"left_out": own.left_out} | train_pairs.calibrated(bank, own.entry)
            bank = bank.with_entry(own.entry)
        trained = train_on_ray(plan, learnt, held_out)
    adapter = FDIAdapter(plan.config, torch.from_numpy(plan.fdi))
    weights = load_file(trained.folder / AVERAGE)
    adapter.load_state_dict({name.removeprefix(_PREFIX): value for name, value in weights.items()})
    shutil.rmtree(trained.folder)
    summary |= {
        "pairs": len(learnt),
        "held_out": len(held_out),
        "pictures": pictures,
        "steps": manifest.steps,
        "batch": manifest.batch,
        "seed": manifest.seed,
        "best": trained.best,
        "last": trained.last,
    }
    with TemporaryDirectory(prefix="fdi-adapter-") as parent:
        folder = Path(parent, plan.config.task)
        bank.save_fdi(plan.config.task, folder)
        adapter.save_pretrained(folder)
        (folder / "training-log.jsonl").write_text(trained.log)
        if own:
            summary["measured"] = train_pairs.measured(manifest, own, folder)
        (folder / "README.md").write_text(adapter_card(folder, summary, manifest))
        last = {"training.json": json.dumps(summary, indent=1).encode() + b"\n"}
        publish(folder, manifest.output, manifest.storage, last)
    return summary | {"output": manifest.output, "already_done": False}


def _finished(output: Store, recipe: str) -> dict[str, Any] | None:
    """The summary of an earlier run of the same recipe, if it was finished."""
    if not output.exists("training.json"):
        return None
    summary: dict[str, Any] = json.loads(output.read("training.json"))
    return summary if summary["training_sha256"] == recipe else None


def _absolute(manifest: TrainManifest) -> TrainManifest:
    """The manifest with absolute local paths: workers have other working directories."""
    uri = manifest.checkpoint.uri or f"{manifest.output}.training"
    return manifest.model_copy(
        update={
            "output": local_path(manifest.output) or manifest.output,
            "checkpoint": manifest.checkpoint.model_copy(update={"uri": local_path(uri) or uri}),
            "data": manifest.data.model_copy(update={"uri": local_path(manifest.data.uri) or manifest.data.uri}),
        }
    )


@dataclass(frozen=True)
class _Clean:
    """Clean tiles with a recipe: to learn from, held out (of other pictures), from how many pictures, and which."""

    learnt: PairSource
    held_out: PairSource
    pictures: int
    identity: list[str]


def data_of(manifest: TrainManifest) -> _Clean | list[PairRef]:
    """What is learnt from: made pairs, already parted, or stored ones, not yet looked at.

    Raises:
        ManifestError: there are too few, or they can't be read.
    """
    data, seed = manifest.data, manifest.seed
    if data.kind != "clean":
        return gather(data.uri, data.kind, data.storage)[0]
    pictures = read_list(Path(data.pictures), Path(data.uri), "train")
    task = data.degradation or manifest.task
    assert task is not None, "the manifest's own check"
    check_recipes([task], "data.degradation")
    if manifest.crop_px > TILE_PX:
        raise ManifestError(
            "larger than the tiles that clean pictures are cut into",
            key="crop_px",
            value=str(manifest.crop_px),
            remedy=f"use at most {TILE_PX}",
        )
    sides = split(pictures, data.validation_fraction, seed, lambda picture: picture.group_id)
    learnt, held = (SyntheticPairs(training_tiles(side, TILE_PX, seed), task) for side in sides)
    return _Clean(learnt, held, len(sides[0]), identity_of(pictures))


def check_recipes(names: Sequence[str], key: str) -> None:
    """Refuse a degradation that nothing here can make.

    Raises:
        ManifestError: names it.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ManifestError("no such recipe", key=key, value=unknown[0], remedy=f"use some of: {', '.join(NAMES)}")


def recipe_of(manifest: TrainManifest, data: Sequence[str], *weights: str) -> str:
    """Hash of all that a training's result depends on: the manifest's dials, the data, the weights' hashes."""
    # A block that says nothing of its own leaves the recipe what it was before there was one.
    free = _FREE if manifest.adapter.model_dump(exclude_defaults=True) else _FREE | {"adapter": True}
    dials = manifest.model_dump_json(exclude=free)  # type: ignore[arg-type]
    if manifest.initial:
        name = "adapter.safetensors" if manifest.model == "adapter" else f"{manifest.model}.safetensors"
        initial = Path(manifest.initial, name)
        if not initial.is_file():
            raise WeightsError(f"initial: {initial} not found; name a folder of trained weights, or leave it out")
        weights += (file_sha256(initial),)
    return hashlib.sha256(json.dumps([dials, list(data), list(weights)]).encode()).hexdigest()


def bank_of(manifest: TrainManifest) -> ReferenceBank:
    """The bank that holds the task's FDI, checked against the encoder.

    Raises:
        WeightsError: it is missing, or was built with another encoder.
    """
    return ReferenceBank.from_pretrained(_bank_folder(manifest), encoder_files(manifest.models.encoder).sha256)


def _base(manifest: TrainManifest) -> CheckpointSettings:
    """The base that the manifest names, complete, with its hash and, where it lies on a disk, its absolute path.

    Raises:
        WeightsError: it can't be had, or has another hash.
    """
    given = manifest.models.base or CheckpointSettings(uri=str(compact_folder() / "base"))
    found = base_sha256(fetch_base(given.uri, given.revision, given.sha256))
    uri = given.uri if is_repository(given.uri) else str(Path(given.uri).absolute())
    return given.model_copy(update={"uri": uri, "sha256": found})


def _bank_folder(manifest: TrainManifest) -> Path:
    return Path(manifest.models.bank or compact_folder() / "bank").absolute()


def plan_of(manifest: TrainManifest, data: Sequence[str], bank: ReferenceBank) -> Plan:
    """Decide everything; with pairs, but for their FDI, which is found when they are looked at (zeros until then).

    Args:
        manifest: of the training.
        data: identity of what is learnt from.
        bank: that holds the FDI of made degradations.

    Raises:
        ManifestError, WeightsError: names what doesn't fit together.
    """
    task = manifest.task
    assert task is not None, "the manifest's own check"
    check_trackers(manifest.watch.trackers)
    made = manifest.data.kind == "clean"
    if made and task not in bank.names:
        raise ManifestError(
            "the bank has no FDI for it", key="task", value=task, remedy="add it with `fdi bank build` first"
        )
    frozen = _base(manifest)
    base, found_sha256 = load_base(frozen.uri, frozen.revision), str(frozen.sha256)
    if manifest.crop_px % base.multiple_px:
        remedy = f"use a multiple of {base.multiple_px}"
        raise ManifestError("doesn't fit the base", key="crop_px", value=str(manifest.crop_px), remedy=remedy)
    fdi = bank.tokens_of(task) if made else np.zeros_like(bank.entries[0].tokens_TD)
    initial = Path(manifest.initial).absolute() if manifest.initial else None
    if initial:
        _check_initial(initial, found_sha256)
    weights = manifest.loss
    noise = weights.noise if weights.noise is not None else float(manifest.init in NOISY_STARTS)
    known = hashlib.sha256(fdi.tobytes()).hexdigest()
    if not made:
        known = file_sha256(_bank_folder(manifest) / "bank.safetensors")
        # Adapters that it will be measured beside must belong to the same models: said now, not after the training.
        describe(train_pairs.folders_with(manifest, None), "custom")
    recipe = recipe_of(manifest, data, found_sha256, bank.encoder_sha256, known)
    config = AdapterConfig.for_base(
        base,
        task,
        (fdi.shape[0], fdi.shape[1]),
        **manifest.adapter.model_dump(),
        init=manifest.init,
        start_t=manifest.start_t,
        training_sha256=recipe,
        base_sha256=found_sha256,
        encoder_sha256=bank.encoder_sha256,
    )
    return Plan(manifest, recipe, config, frozen, fdi, LossWeights(noise, weights.l1, weights.fidelity), initial)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library isn't installed.

    Raises:
        ManifestError: names it.
    """
    for tracker in set(names) - {"tensorboard"}:
        if find_spec(tracker) is None:
            raise ManifestError(
                "not installed", key="watch.trackers", value=tracker, remedy=f"pip install 'fdi-restore[{tracker}]'"
            )


def _check_initial(folder: Path, base_sha256: str) -> None:
    made_for = read_config(folder).get("base_sha256")
    if made_for != base_sha256:
        raise WeightsError(
            f"initial: {folder} was made for base {str(made_for)[:12]}, models.base is {base_sha256[:12]}; "
            "name its own base, or start from nothing"
        )
