"""The five kinds of manifest, each a composition of blocks, and the rules between blocks.

Does NOT know files, lines or overrides (``load.py``).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from fdi_lib.manifest.data import EvaluateDataSettings, Names, SyntheticPairSettings, TrainDataSettings
from fdi_lib.manifest.locations import Location, is_inside, problem
from fdi_lib.manifest.restoring import GateSettings, RestoreSettings
from fdi_lib.manifest.settings import (
    Checkpoint,
    ClassifySettings,
    Limits,
    ModelSettings,
    Name,
    OutputSettings,
    Pools,
    Settings,
    SourceSettings,
    StorageSettings,
)
from fdi_lib.manifest.training import (
    AdapterFormSettings,
    CheckpointingSettings,
    LossSettings,
    TrainWorker,
    WatchSettings,
)

Locations = Annotated[tuple[Location, ...], Strict(False)]


def _check_apart(read: str, written: str, read_endpoint: str | None = None, write_endpoint: str | None = None, *,
                 key: str, read_key: str) -> None:  # fmt: skip
    """Refuse a place to write that overlaps with what is read: sources are masters."""
    remedy = "write to a folder or prefix beside it"
    if is_inside(written, read, write_endpoint, read_endpoint):
        raise problem(f"lies inside {read_key} ({read})", key=key, remedy=remedy)
    if is_inside(read, written, read_endpoint, write_endpoint):
        raise problem(f"contains {read_key} ({read})", key=key, remedy=remedy)


class RestoreManifest(Settings):
    """A restoration: what ``fdi restore`` and ``fdi plan`` take."""

    kind: Literal["restore"] = Field(description="Kind of this manifest.")
    source: SourceSettings = Field(description="What is read; nothing is ever written below it.")
    output: OutputSettings = Field(description="Where results go.")
    models: ModelSettings = Field(default=ModelSettings(), description="Which models restore.")
    classify: ClassifySettings = Field(default=ClassifySettings(), description="How a degradation is recognised.")
    restore: RestoreSettings = Field(default=RestoreSettings(), description="How an image is restored.")
    gates: GateSettings = Field(default=GateSettings(), description="Do-no-harm checks.")
    pools: Pools = Field(default=Pools(), description="What each stage may use; may change between runs.")
    limits: Limits = Field(default=Limits(), description="When to stop; may change between runs.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        source, output = self.source, self.output
        _check_apart(source.uri, output.uri, source.storage.endpoint_url, output.storage.endpoint_url,
                     key="output.uri", read_key="source.uri")  # fmt: skip
        return self


class TrainModels(Settings):
    """What an adapter is trained against; both stay frozen."""

    encoder: Checkpoint | None = Field(default=None, description="null is the compact preset's.")
    base: Checkpoint | None = Field(default=None, description="null is the compact preset's.")
    bank: Location | None = Field(default=None, description="Bank that holds the task's FDI; null is the preset's.")


class TrainManifest(Settings):
    """A training: an adapter, or the compact base or encoder."""

    kind: Literal["train"] = Field(description="Kind of this manifest.")
    model: Literal["base", "encoder", "adapter"] = Field(default="adapter", description="What is trained.")
    task: Name | None = Field(default=None, description="adapter: name of the degradation that it undoes.")
    tasks: Names = Field(
        default=(),
        description="adapter: in place of `task`, those of several adapters that are trained together, on their "
        "degradations alone and in twos, for `restore.mode: composite`; `output` gets a folder of each.",
    )
    data: TrainDataSettings = Field(description="Pictures to learn from.")
    models: TrainModels = Field(default=TrainModels(), description="Frozen parts that an adapter is trained against.")
    output: Location = Field(description="Folder of the trained weights.")
    initial: Location | None = Field(default=None, description="Folder of weights to go on from; null: from nothing.")
    only: Literal["tones"] | None = Field(
        default=None,
        description="encoder: train only what looks at tones; all else stays as it is in `initial`. Takes minutes of a "
        "CPU, whatever `steps`, `batch` and rates say.",
    )
    replace: bool = Field(
        default=False, description="Write over what another training, or somebody, left in `output`; may change."
    )
    steps: int = Field(default=4000, ge=1, description="Optimiser steps.")
    batch: int = Field(default=16, ge=1, description="Global batch, shared by the workers.")
    echo: int = Field(
        default=1, ge=1, le=4,
        description="adapter: steps that each batch is used for, mirrored the second time and after; for devices that "
        "learn faster than samples are made.",
    )  # fmt: skip
    crop_px: int = Field(default=128, ge=32, multiple_of=8, description="Side of a training crop.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak rate of AdamW; warm-up, then cosine decay.")
    init: Literal["input", "noised_input"] = Field(
        default="input", description="adapter: where its sampling starts; kept in its config."
    )
    start_t: float = Field(
        default=0.35, gt=0, le=1, description="adapter: level of the start, share of the schedule; kept in its config."
    )
    warmup_steps: int = Field(default=100, ge=0, description="Steps over which the rate rises.")
    weight_decay: float = Field(default=0.01, ge=0, description="Decoupled decay of AdamW.")
    clip_norm: float = Field(default=1.0, gt=0, description="Gradients are scaled down to this global L2 norm.")
    ema_decay: float = Field(default=0.998, ge=0, lt=1, description="Decay of the averaged weights, which are kept.")
    parts: int = Field(
        default=2, ge=1,
        description="adapter: parts that a batch is computed in, by one worker after the other or by several at once. "
        "With 2, one and two workers take the same steps to the last bit; more need less memory, 1 is fastest.",
    )  # fmt: skip
    gradient_checkpointing: bool = Field(
        default=False, description="adapter: compute activations again in the backward pass; less memory, more time."
    )
    adapter: AdapterFormSettings = Field(default=AdapterFormSettings(), description="adapter: its form.")
    loss: LossSettings = Field(default=LossSettings(), description="adapter: what is minimised.")
    workers: int | Annotated[tuple[int, int], Strict(False)] = Field(
        default=1, description="Workers, or [fewest, most] for an elastic group; may change between runs."
    )
    worker: TrainWorker = Field(default=TrainWorker(), description="adapter: what a worker uses.")
    max_failures: int = Field(
        default=3, ge=0, description="adapter: how often workers may die before the job gives up; running it resumes."
    )
    wait_s: float = Field(default=1800.0, ge=0, description="adapter: how long to wait for nodes; may change.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Key of crops, degradations and noise by sample index.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Arithmetic of the forward pass.")
    checkpoint: CheckpointingSettings = Field(
        default=CheckpointingSettings(), description="Where an interrupted training goes on."
    )
    watch: WatchSettings = Field(default=WatchSettings(), description="What is written down along the way.")
    storage: StorageSettings = Field(
        default=StorageSettings(), description="How to reach output and checkpoints on S3."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model == "adapter" and self.task is None and not self.tasks:
            raise problem("an adapter needs the name of its task", key="task", remedy="set task: noise, say")
        if self.tasks:
            self._check_together()
        if self.only and (self.model != "encoder" or self.initial is None):
            remedy = "set model: encoder and initial: FOLDER, or leave it out"
            raise problem("only an encoder that is there has parts to leave alone", key="only", remedy=remedy)
        if self.model == "encoder" and len(self.data.degradations) < 2:
            remedy = "list the degradations to tell apart"
            raise problem("an encoder needs at least two", key="data.degradations", remedy=remedy)
        low, high = self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)
        if not 1 <= low <= high:
            raise problem("not a number of workers", key="workers", remedy="use 2, or [1, 8] for fewest and most")
        if high > self.batch:
            remedy = "use at most `batch` workers: each needs a sample of every step"
            raise problem(f"more workers than a batch of {self.batch} has samples", key="workers", remedy=remedy)
        if self.data.cached_latents and self.echo > 1:
            remedy = "use one of the two"
            raise problem("a mirrored batch has other latents", key="data.cached_latents", remedy=remedy)
        _check_apart(self.data.uri, self.output, key="output", read_key="data.uri")
        if self.checkpoint.uri:
            _check_apart(self.data.uri, self.checkpoint.uri, key="checkpoint.uri", read_key="data.uri")
        return self

    def _check_together(self) -> None:
        """Adapters that are trained together need mixtures, and those can only be made."""
        if self.task is not None or len(set(self.tasks)) < max(2, len(self.tasks)):
            remedy = "name two or more degradations, each once, and leave task out"
            raise problem("adapters that are trained together", key="tasks", remedy=remedy)
        if self.data.kind != "clean" or self.data.degradation:
            remedy = "use data.kind: clean without data.degradation"
            raise problem("mixtures are made from clean pictures", key="data.kind", remedy=remedy)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters that are trained, sorted."""
        return tuple(sorted(self.tasks or filter(None, [self.task])))


class PairSettings(Settings):
    """Reference pairs of one degradation."""

    task: Name = Field(description="Name of the degradation.")
    uri: Location = Field(description="Folder or prefix with `degraded/` and `clean/`, paired by name; or shards.")
    kind: Literal["pairs", "shards"] = Field(default="pairs", description="Folders, or shards as in kind: train.")
    storage: StorageSettings = Field(default=StorageSettings(), description="How to reach them on S3.")


class BankModels(Settings):
    """The encoder whose features the bank holds."""

    encoder: Checkpoint | None = Field(default=None, description="null is the compact preset's.")


class BankManifest(Settings):
    """A reference bank from (degraded, clean) pairs."""

    kind: Literal["bank"] = Field(description="Kind of this manifest.")
    pairs: Annotated[tuple[PairSettings, ...], Strict(False)] = Field(default=(), description="Reference pairs.")
    synthetic: SyntheticPairSettings | None = Field(default=None, description="Make the pairs instead of reading them.")
    merge: Locations = Field(default=(), description="Banks of the same encoder whose entries join; names differ.")
    held_out_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="pairs: share that thresholds are found on, which no mean has seen."
    )
    clean_false_positive_rate: float = Field(
        default=0.01, gt=0, lt=0.5, description="pairs: rate of the stored thresholds."
    )
    prototypes: int = Field(default=1, ge=1, le=8, description="1: the mean FDI alone; more: so many by severity, too.")
    pools: Pools = Field(default=Pools(), description="pairs: what reading (`decode`) and encoding (`classify`) use.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Key of synthetic degradations, or of what is held out.")
    models: BankModels = Field(default=BankModels(), description="The encoder.")
    output: Location = Field(description="Where the bank is written.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if bool(self.pairs) == bool(self.synthetic) and not (self.merge and not self.pairs):
            remedy = "name reference pairs, or how to make them, or banks to merge"
            raise problem("give either pairs or synthetic", key="pairs", remedy=remedy)
        names = [pair.task for pair in self.pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise problem(f"{twice} appears twice", key="pairs", remedy="put its pairs into one folder")
        for pair in self.pairs:
            _check_apart(pair.uri, self.output, pair.storage.endpoint_url, key="output", read_key="pairs.uri")
        return self


class EvaluateManifest(Settings):
    """Restored against reference: a table and ``metrics.json``."""

    kind: Literal["evaluate"] = Field(description="Kind of this manifest.")
    data: EvaluateDataSettings = Field(description="What is measured.")
    models: ModelSettings = Field(default=ModelSettings(), description="Which models restore.")
    classify: ClassifySettings = Field(default=ClassifySettings(), description="How a degradation is recognised.")
    restore: RestoreSettings = Field(default=RestoreSettings(), description="How an image is restored.")
    output: Location = Field(description="Folder of the table, `metrics.json` and the contact sheet.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        _check_apart(self.data.uri, self.output, key="output", read_key="data.uri")
        return self


Section = Literal["job", "plain", "routing", "growth", "control_plane", "full_size"]


_Side = Annotated[int, Field(ge=64, le=8192)]


class BenchManifest(Settings):
    """Throughput and overhead tables."""

    kind: Literal["bench"] = Field(description="Kind of this manifest.")
    source: SourceSettings | None = Field(default=None, description="Images to run on; null makes the demo's archive.")
    models: ModelSettings = Field(default=ModelSettings(), description="Which models restore.")
    restore: RestoreSettings = Field(default=RestoreSettings(), description="How an image is restored.")
    pools: Pools = Field(default=Pools(), description="What each stage may use.")
    sections: Annotated[tuple[Section, ...], Strict(False)] = Field(
        default=("job", "plain"), min_length=1, description="Tables to make."
    )
    repeats: int = Field(default=7, ge=1, description="Interleaved pairs of runs; the median is reported.")
    fake_device: bool = Field(
        default=True, description="Sections job and plain: compare with a device that only takes time, too."
    )
    fake_image_px: Annotated[tuple[_Side, _Side], Strict(False)] = Field(
        default=(480, 768), description="Height and width of the images on that device; its tiles are of 512 px."
    )
    control_plane_images: int = Field(default=1_000_000, ge=1000, description="References of section control_plane.")
    output: Location = Field(description="Folder of `bench.json` and the tables.")


Manifest = RestoreManifest | TrainManifest | BankManifest | EvaluateManifest | BenchManifest
KINDS: dict[str, type[Manifest]] = {
    "restore": RestoreManifest,
    "train": TrainManifest,
    "bank": BankManifest,
    "evaluate": EvaluateManifest,
    "bench": BenchManifest,
}
