"""Blocks of a training manifest: what a worker may use, what is minimised, what is written down along the way.

Does NOT know the data or the models (``kinds.py``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, field_validator

from fdi_lib.manifest.locations import Location
from fdi_lib.manifest.settings import Settings, whole_above_one

Tracker = Literal["tensorboard", "mlflow", "wandb"]


class CheckpointingSettings(Settings):
    """Where an interrupted training goes on. May change between runs, but for `uri`."""

    every_steps: int = Field(
        default=500, ge=1, description="Steps between two checkpoints, each validated: what a crash costs at most."
    )
    uri: Location | None = Field(
        default=None,
        description="Folder or prefix that all workers reach; null is `OUTPUT.training` beside the output.",
    )


class TrainWorker(Settings):
    """What one training worker of an adapter uses. May change between runs."""

    cpus: float = Field(default=1, gt=0, description="CPUs a worker; also its threads.")
    gpus: int = Field(default=0, ge=0, le=1, description="GPUs a worker: 0 or 1.")
    memory_gib: float = Field(default=2, gt=0, description="Memory a worker, GiB.")
    data_tasks: int = Field(
        default=1, ge=1, description="Tasks that make samples for a worker at the same time, on its node and CPUs."
    )
    prefetch_batches: int = Field(default=4, ge=1, description="Batches made ahead.")

    _schedulable = field_validator("cpus")(whole_above_one)


Form = Literal["safe", "literal"]
Parts = Literal["full", "modulator", "decoupling", "addition"]
Tone = Literal["tiles", "whole"]


class AdapterFormSettings(Settings):
    """Form of an adapter: the published equations beside our safer ones, and its parts for ablations."""

    modulator: Form = Field(
        default="safe", description="`safe` starts as the identity; `literal` is Eq. 4 and 5 as published."
    )
    addition: Form = Field(
        default="safe",
        description="`safe` adds through a convolution that starts at zero; `literal` adds the gated features "
        "themselves (Stable Diffusion bases only).",
    )
    parts: Parts = Field(
        default="full",
        description="For ablations: only the decoder's modulator, or only the encoder's addition; `addition` leaves "
        "out the trunk's self-attention and the decoupling's cross-attention as well.",
    )
    tone: Tone = Field(
        default="tiles",
        description="Where tiles of a larger image take their tone from: each from itself, or from the `whole` image, "
        "restored once more in small (haze, darkness, fading, shadows).",
    )


class LossSettings(Settings):
    """Weights of the parts of an adapter's loss."""

    noise: float | None = Field(
        default=None, ge=0, description="Noise prediction (Eq. 1); null is 1 where sampling starts noisy, else 0."
    )
    l1: float = Field(default=1.0, ge=0, description="L1 between restored and true latents, without the fidelity path.")
    fidelity: float = Field(default=1.0, ge=0, description="The same with the fidelity path.")


class WatchSettings(Settings):
    """What is written down along the way. May change between runs."""

    log_every_steps: int = Field(default=50, ge=1, description="Steps between two lines of the log.")
    images_every_steps: int = Field(
        default=500, ge=1, description="adapter: steps between two sample sheets: input, restored, clean."
    )
    validation_crops: int = Field(
        default=64, ge=1, description="adapter: held-out crops that every checkpoint is scored on."
    )
    trackers: Annotated[tuple[Tracker, ...], Strict(False)] = Field(
        default=("tensorboard",), description="Where curves go; mlflow and wandb are optional extras."
    )
