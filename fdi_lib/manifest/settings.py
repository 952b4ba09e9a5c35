"""The blocks that manifests are made of: frozen values, units in names, bounds beside defaults, the reason at each key.

Does NOT know files, lines or overrides (``load.py``), nor which blocks a kind of manifest holds (``kinds.py``).
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from fdi_lib.manifest.locations import Location, SafeText, local_path, problem

Auto = Literal["auto"]
Name = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
]  # no '+', '>' or ':': they separate names in a composition


class Settings(BaseModel):
    """Base of every block: immutable, nothing unknown, nothing converted silently, values never echoed by pydantic."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class StorageSettings(Settings):
    """How to reach an S3-compatible store. Never credentials."""

    endpoint_url: SafeText | None = Field(
        default=None, description="S3 endpoint; null takes AWS_ENDPOINT_URL, or AWS itself."
    )
    region: str | None = Field(default=None, description="S3 region; null takes the environment's or the profile's.")


class SourceSettings(Settings):
    """What is read. Nothing is ever written below it."""

    uri: Location = Field(description="Folder, prefix or inventory that holds the images; read only.")
    format: Literal["auto", "webdataset", "parquet", "files", "inventory"] = Field(
        default="auto",
        description="`auto` looks at the names found; `inventory` is a CSV, JSONL or Parquet list with a `uri` column.",
    )
    storage: StorageSettings = Field(default=StorageSettings(), description="How to reach the source.")


class ImageSettings(Settings):
    """File format of restored images; clean and kept images are byte copies."""

    format: Literal["same", "tiff", "png", "jpeg", "jp2"] = Field(
        default="same", description="Format of restored images only; `jp2` is reserved: this release refuses it."
    )
    quality: int = Field(default=95, ge=1, le=100, description="JPEG quality, on libjpeg's scale.")

    @field_validator("format")
    @classmethod
    def _writable(cls, value: str) -> str:
        if value == "jp2":
            raise problem(
                "this release can't write JPEG 2000: its libvips has no encoder for it", remedy="use tiff or png"
            )
        return value


class OutputSettings(Settings):
    """Where results go."""

    uri: Location = Field(description="Folder or prefix of this run; empty at first, and outside the source.")
    layout: Literal["files", "webdataset", "parquet"] = Field(
        default="files",
        description="One file an image, or a shard for each shard of the source (single files: refused).",
    )
    image: ImageSettings = Field(default=ImageSettings(), description="File format of restored images.")
    storage: StorageSettings = Field(default=StorageSettings(), description="How to reach the output.")


class CheckpointSettings(Settings):
    """A pre-trained checkpoint. A plain string is short for ``{uri: ...}``."""

    uri: SafeText = Field(min_length=1, description="Path or hub id of the checkpoint (safetensors only).")
    revision: str | None = Field(default=None, description="Pinned hub revision (commit hash); a tag can move.")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$",
        description="Expected hash of the weights, as in `run.json`; of several files, of their `sha256sum` list.",
    )  # fmt: skip

    @field_validator("uri")
    @classmethod
    def _same_everywhere(cls, value: str) -> str:
        path = local_path(value)  # workers may run in another folder; anything else is a hub id
        return path if path and os.path.isdir(path) else value


def _short_form(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str) else value


Checkpoint = Annotated[CheckpointSettings, BeforeValidator(_short_form)]


class ModelSettings(Settings):
    """Which models restore."""

    preset: Literal["compact", "custom"] = Field(default="compact", description="`compact` ships with the package.")
    encoder: Checkpoint | None = Field(default=None, description="custom: BLIP-2 checkpoint or compact encoder.")
    base: Checkpoint | None = Field(default=None, description="custom: SD 1.5-, SD 2.1- or SDXL-shaped checkpoint.")
    bank: Location | None = Field(default=None, description="Reference bank; null is the preset's.")
    adapters: Location | None = Field(
        default=None, description="Folder or prefix with one folder per adapter; null is the preset's."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.preset == "custom":
            for name in ("encoder", "base", "bank", "adapters"):
                if getattr(self, name) is None:
                    raise problem(
                        f"preset custom needs {name}", key=name, remedy=f"set models.{name}, or use preset: compact"
                    )
        for name in ("encoder", "base"):
            if self.preset == "compact" and getattr(self, name) is not None:
                raise problem(f"preset compact brings its own {name}", key=name, remedy="set models.preset: custom")
        return self


class ClassifySettings(Settings):
    """How a degradation is recognised."""

    max_adapters: int = Field(default=3, ge=1, le=8, description="Most adapters for one image.")
    clean_false_positive_rate: float = Field(
        default=0.01,
        gt=0,
        lt=0.5,
        description="Share of clean images that may be touched; calibrated on the bank's held-out references.",
    )
    extent: Literal["auto", "whole", "detail"] = Field(
        default="auto",
        description="What images show: `whole` pictures, or `detail`s cut from larger ones, in which haze or rain can "
        "be told from skies less surely; `auto`: whole from 768 px on the shorter side.",
    )
    unknown: Literal["review", "keep"] = Field(
        default="review", description="What to do with an image unlike anything in the bank; never guessed at."
    )


def whole_above_one(value: float) -> float:
    """Check an amount of CPUs or GPUs by Ray's own rule for resources."""
    if value > 1 and value != int(value):
        raise problem("above 1 only whole numbers can be scheduled", remedy=f"use {int(value)} or {int(value) + 1}")
    return value


class DecodePool(Settings):
    """Resources of one task that reads and decodes."""

    cpus: float = Field(default=1.0, gt=0, description="CPUs of one task.")
    memory_gib: float = Field(
        default=1.0, gt=0, description="Memory of one task, which holds one decoded image at a time."
    )

    _schedulable = field_validator("cpus", "gpus", check_fields=False)(whole_above_one)


class _ActorPool(DecodePool):
    gpus: float = Field(default=0.0, ge=0, description="GPUs of one actor; a fraction shares a device.")
    min: int = Field(default=1, ge=1, description="Actors kept even when idle.")
    max: int = Field(default=1, ge=1, description="Actors at most; the cluster may give fewer.")
    batch: int = Field(default=32, ge=1, le=4096, description="Fixed batch size; part of the numeric profile.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise problem("min is larger than max", key="min", remedy=f"use at most {self.max}, or raise max")
        return self


class ClassifyPool(_ActorPool):
    """Resources of the actors that classify."""

    memory_gib: float = Field(default=2.0, gt=0, description="Memory of one actor.")
    max: int = Field(default=4, ge=1, description="Actors at most; the cluster may give fewer.")


class RestorePool(_ActorPool):
    """Resources of the actors that restore."""

    memory_gib: float = Field(default=4.0, gt=0, description="Memory of one actor.")
    max: int = Field(default=64, ge=1, description="Actors at most; the cluster may give fewer.")
    batch: int = Field(default=8, ge=1, le=1024, description="Tiles in one forward pass; part of the numeric profile.")
    resident_adapters: int = Field(
        default=8, ge=1, le=1024, description="Adapters an actor keeps loaded; the least recently used goes first."
    )


class Pools(Settings):
    """What each stage may use. A GPU cluster would give classify 0.2 and restore 0.8 of a GPU: both fit one device."""

    decode: DecodePool = Field(default=DecodePool(), description="Tasks that read and decode.")
    classify: ClassifyPool = Field(default=ClassifyPool(), description="Actors that classify.")
    restore: RestorePool = Field(default=RestorePool(), description="Actors that restore.")


class Limits(Settings):
    """When to stop, and what to refuse."""

    max_pixels_mp: float = Field(
        default=400.0, gt=0, le=10_000, description="Larger images fail as `too_large`: decompression bombs."
    )
    timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="Longest time for decoding one image; then its decoder is killed and it fails as `timeout`.",
    )
    max_failed_fraction: float = Field(
        default=0.01, ge=0, le=1, description="Above it the command ends with exit code 3."
    )
    wait_s: float = Field(
        default=1800.0, ge=0, description="How long to wait for nodes that the cluster could still add."
    )
    grace_s: float = Field(
        default=30.0,
        ge=0,
        description="Time from SIGTERM to the end: what is in flight is finished in most of it, or dropped and redone.",
    )
