"""From the manifest of an adapter's training to a plan: everything that the training is made of, decided and checked.

Everything that can't work is said here, before anything starts. Knows no Ray: who carries a plan out
(``adapter.py`` on a cluster, ``alone.py`` in one process) is another's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import CheckpointSettings, TrainManifest
from fdi_lib.manifest.locations import local_path, on_this_machine
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.base_files import base_sha256, fetch_base
from fdi_lib.models.checkpoints import file_sha256, is_repository
from fdi_lib.models.presets import compact_folder, encoder_files
from fdi_lib.models.stable_diffusion import load_base
from fdi_lib.training.adapter import NOISY_STARTS, AdapterTraining, LossWeights, fresh_adapter
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.together import Together, TogetherTraining
from jobs.training.checks import check_base_of, check_form_of, check_latents, check_trackers

# What may change between two runs of the same training; weights count by their hashes, wherever they lie.
_FREE: dict[str, Any] = {
    "output": True, "workers": True, "worker": True, "max_failures": True, "checkpoint": True, "watch": True,
    "storage": True, "wait_s": True, "models": True, "initial": True, "replace": True,
    "data": {"uri", "pictures", "cache_mib", "storage"},
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Everything that a training of an adapter is made of, decided.

    Args:
        manifest: its settings; locations are absolute.
        recipe: hash of all that the result depends on; names the run.
        config: of the adapter.
        base: the frozen base, with the hash that every worker must find.
        fdi: FDI tokens, float32 T,D.
        weights: of the loss's parts.
        initial: folders of the adapters to go on from, in order; none starts from nothing.
        others: config and FDI tokens of further adapters, trained together with the first.
        origin: see :func:`went_on_from`.
    """

    manifest: TrainManifest
    recipe: str
    config: AdapterConfig
    base: CheckpointSettings
    fdi: Any
    weights: LossWeights
    initial: tuple[Path, ...] = ()
    others: tuple[tuple[AdapterConfig, Any], ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> AdapterTraining:
        """Load the base and make the adapter, or adapters."""
        m = self.manifest
        base = load_base(self.base.uri, self.base.revision, self.base.sha256)
        made = [fresh_adapter(c, torch.from_numpy(tokens), m.seed + k) for k, (c, tokens) in enumerate(self.parts)]
        for adapter, folder in zip(made, self.initial, strict=False):
            adapter.load_state_dict(FDIAdapter.from_pretrained(folder).state_dict())
        if self.others:
            return TogetherTraining(base, Together(made), self.weights, recompute=m.gradient_checkpointing)
        return AdapterTraining(base, made[0], self.weights, recompute=m.gradient_checkpointing)

    def untrained(self) -> FDIAdapter | Together:
        """What the trained weights belong into."""
        made = [FDIAdapter(config, torch.tensor(tokens)) for config, tokens in self.parts]
        return Together(made) if self.others else made[0]

    @property
    def parts(self) -> tuple[tuple[AdapterConfig, Any], ...]:
        """Config and FDI tokens of every adapter."""
        return ((self.config, self.fdi), *self.others)

    def alone(self, k: int) -> Plan:
        """The plan of one of several adapters, as far as its folder is concerned."""
        config, tokens = self.parts[k]
        output = f"{self.manifest.output}/{config.task}"
        return replace(self, manifest=self.manifest.model_copy(update={"output": output}), config=config, fdi=tokens)

    @property
    def settings(self) -> FitSettings:
        """The loop's settings."""
        return replace(fit_settings(self.manifest), parts=self.manifest.parts)

    def crops(self, pairs: int) -> int:
        """Crops of so many pairs that return, see :class:`Samples`; whole batches, so that workers meet their own.

        Raises:
            ManifestError: their latents need too much memory.
        """
        m, shape = self.manifest, self.config
        crops = -(-m.data.cached_latents * pairs // m.batch) * m.batch
        check_latents(m, crops, 2 * 4 * shape.latent_channels * (m.crop_px // shape.latent_factor) ** 2)
        return crops

    def summary(self, pairs: int, held_out: int, pictures: int) -> dict[str, Any]:
        """What was trained, and on how much: the beginning of ``training.json``."""
        m = self.manifest
        return {
            "model": "adapter", "task": "+".join(m.names), "training_sha256": self.recipe, "pairs": pairs,
            "held_out": held_out, "pictures": pictures, "steps": m.steps, "batch": m.batch, "seed": m.seed,
            **self.origin,
        }  # fmt: skip


def absolute(manifest: TrainManifest) -> TrainManifest:
    """The manifest with absolute local paths: workers have other working directories."""
    uri = manifest.checkpoint.uri or f"{manifest.output}.training"
    return manifest.model_copy(
        update={
            "output": local_path(manifest.output) or manifest.output,
            "checkpoint": manifest.checkpoint.model_copy(update={"uri": local_path(uri) or uri}),
            "data": manifest.data.model_copy(update={"uri": local_path(manifest.data.uri) or manifest.data.uri}),
        }
    )


def fit_settings(manifest: TrainManifest) -> FitSettings:
    """The loop's settings for any model; batches are computed at once."""
    names = ("steps", "learning_rate", "warmup_steps", "weight_decay", "clip_norm", "ema_decay", "precision")
    given: dict[str, Any] = {name: getattr(manifest, name) for name in names}
    watch, checkpoint = manifest.watch, manifest.checkpoint
    return FitSettings(**given, log_every_steps=watch.log_every_steps, checkpoint_every_steps=checkpoint.every_steps)


def recipe_of(manifest: TrainManifest, data: Sequence[str], *weights: str) -> str:
    """Hash of all that a training's result depends on: the manifest's dials, the data, the weights' hashes."""
    # What says nothing of its own leaves the recipe what it was before there was such a setting.
    free = {**_FREE, "data": set(_FREE["data"])}
    free |= {} if manifest.adapter.model_dump(exclude_defaults=True) else {"adapter": True}
    free |= {} if manifest.echo > 1 else {"echo": True}
    free |= {} if manifest.tasks else {"tasks": True}
    free |= {} if manifest.only else {"only": True}
    free["data"] |= set() if manifest.data.versions > 1 else {"versions"}
    free["data"] |= set() if manifest.data.cached_latents else {"cached_latents"}
    dials = manifest.model_dump_json(exclude=free)
    weights += tuple(_initial_sha256(manifest))
    return hashlib.sha256(json.dumps([dials, list(data), list(weights)]).encode()).hexdigest()


def _initial_sha256(manifest: TrainManifest) -> list[str]:
    files = [folder / f"{manifest.model}.safetensors" for folder in initial_folders(manifest)]
    for file in files:
        if not file.is_file():
            raise WeightsError(f"initial: {file} not found; name a folder of trained weights, or leave it out")
    return [file_sha256(file) for file in files]


def went_on_from(manifest: TrainManifest) -> dict[str, Any]:
    """What ``training.json`` says of weights that didn't start from nothing: their hashes, and what part learnt."""
    hashes = _initial_sha256(manifest)
    return ({"initial_sha256": hashes} if hashes else {}) | ({"only": manifest.only} if manifest.only else {})


def initial_folders(manifest: TrainManifest) -> list[Path]:
    """Folders of the weights to go on from: one for each model that is trained, or none."""
    if not manifest.initial:
        return []
    parent = on_this_machine(manifest.initial, "initial")
    return [parent / name for name in manifest.names] if manifest.tasks else [parent]


def bank_of(manifest: TrainManifest) -> ReferenceBank:
    """The bank that holds the task's FDI, checked against the encoder.

    Raises:
        WeightsError: it is missing, or was built with another encoder.
    """
    return ReferenceBank.from_pretrained(bank_folder(manifest), encoder_files(manifest.models.encoder).sha256)


def _base(manifest: TrainManifest) -> CheckpointSettings:
    """The base that the manifest names, complete, with its hash and, where it lies on a disk, its absolute path.

    Raises:
        WeightsError: it can't be had, or has another hash.
    """
    given = manifest.models.base or CheckpointSettings(uri=str(compact_folder() / "base"))
    found = base_sha256(fetch_base(given.uri, given.revision, given.sha256))
    uri = given.uri if is_repository(given.uri) else str(Path(given.uri).absolute())
    return given.model_copy(update={"uri": uri, "sha256": found})


def bank_folder(manifest: TrainManifest) -> Path:
    """Where the bank lies."""
    given = manifest.models.bank
    return on_this_machine(given, "models.bank") if given else compact_folder() / "bank"


def plan_of(manifest: TrainManifest, data: Sequence[str], bank: ReferenceBank) -> Plan:
    """Decide everything; with pairs, but for their FDI, which is found when they are looked at (zeros until then).

    Args:
        manifest: of the training.
        data: identity of what is learnt from.
        bank: that holds the FDI of made degradations.

    Raises:
        ManifestError, WeightsError: names what doesn't fit together.
    """
    check_trackers(manifest.watch.trackers)
    made, key = manifest.data.kind == "clean", "tasks" if manifest.tasks else "task"
    missing = [name for name in manifest.names if made and name not in bank.names]
    if missing:
        remedy = "add it with `fdi bank build` first"
        raise ManifestError("the bank has no FDI for it", key=key, value=missing[0], remedy=remedy)
    frozen = _base(manifest)
    base, found_sha256 = load_base(frozen.uri, frozen.revision), str(frozen.sha256)
    if manifest.crop_px % base.multiple_px:
        remedy = f"use a multiple of {base.multiple_px}"
        raise ManifestError("doesn't fit the base", key="crop_px", value=str(manifest.crop_px), remedy=remedy)
    fdi = [bank.tokens_of(name) if made else np.zeros_like(bank.entries[0].tokens_TD) for name in manifest.names]
    initial = initial_folders(manifest)
    for folder in initial:
        check_base_of(folder, found_sha256)
    weights = manifest.loss
    noise = weights.noise if weights.noise is not None else float(manifest.init in NOISY_STARTS)
    known = hashlib.sha256(b"".join(tokens.tobytes() for tokens in fdi)).hexdigest()
    if not made:
        known = file_sha256(bank_folder(manifest) / "bank.safetensors")
    recipe = recipe_of(manifest, data, found_sha256, bank.encoder_sha256, known)
    configs = []
    for name in manifest.names:
        config = AdapterConfig.for_base(
            base,
            name,
            fdi[0].shape,
            **manifest.adapter.model_dump(),
            init=manifest.init,
            start_t=manifest.start_t,
            training_sha256=recipe,
            base_sha256=found_sha256,
            encoder_sha256=bank.encoder_sha256,
            together=tuple(manifest.names) if manifest.tasks else (),
        )
        configs.append(config)
    for folder, config in zip(initial, configs, strict=False):
        check_form_of(folder, config)
    first, *others = zip(configs, fdi, strict=True)
    losses = LossWeights(noise, weights.l1, weights.fidelity)
    origin = went_on_from(manifest)
    return Plan(manifest, recipe, first[0], frozen, first[1], losses, tuple(initial), tuple(others), origin)
