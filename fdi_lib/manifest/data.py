"""Which pictures are learned from or measured on: what such blocks share, and those of trainings and evaluations.

Does NOT know what is done with them.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from fdi_lib.manifest.locations import Location, SafeText, problem
from fdi_lib.manifest.settings import Name, Settings, StorageSettings

Names = Annotated[tuple[Name, ...], Strict(False)]  # YAML has lists only; frozen settings want tuples
_Pair = Annotated[tuple[Name, Name], Strict(False)]
Mixtures = Annotated[tuple[_Pair, ...], Strict(False), Field(min_length=1)]


def _data_from_environment() -> str:
    return os.environ.get("FDI_DATA", "")


class DataSettings(Settings):
    """Pictures to learn from or to measure on."""

    uri: Location = Field(
        default_factory=_data_from_environment, validate_default=True,
        description="Folder or prefix of the pictures; without it the environment variable FDI_DATA.",
    )  # fmt: skip

    @field_validator("uri", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        if value in ("", None):
            raise problem("no data given", remedy="add data.uri=FOLDER to the command, or set FDI_DATA")
        return value


class TrainDataSettings(DataSettings):
    """Training data: pairs, shards of pairs, or clean pictures that are degraded on the fly."""

    kind: Literal["pairs", "shards", "clean"] = Field(
        default="clean",
        description="Folders `degraded/` and `clean/`, shards of pairs (tar members `KEY.degraded.png` and "
        "`KEY.clean.png`, or Parquet columns `degraded` and `clean`), or clean pictures with a recipe.",
    )
    degradation: Name | None = Field(default=None, description="clean: the recipe; null takes the task's name.")
    degradations: Names = Field(default=(), description="clean: the recipes that an encoder learns to tell apart.")
    favoured: Names = Field(default=(), description="clean: those of them that an encoder sees twice as often.")
    versions: int = Field(
        default=1, ge=1,
        description="clean: how often an encoder sees each clean picture, with other damage each time; "
        "`batch` is a multiple of twice that.",
    )  # fmt: skip
    pictures: SafeText = Field(
        default="docs/training-data.tsv", description="clean: table of pictures; its train split is used."
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of pictures held out; the split is by picture."
    )
    cached_latents: int = Field(
        default=0, ge=0,
        description="adapter: crops of each pair (or tile) that return, in turn, with their damage; workers encode "
        "each once and keep its latents in memory. 0: every sample is a new crop. Pays where a VAE is most of a step.",
    )  # fmt: skip
    cache_mib: int = Field(default=512, ge=0, description="pairs, shards: decoded pictures that a process keeps, MiB.")
    storage: StorageSettings = Field(default=StorageSettings(), description="pairs, shards: how to reach them on S3.")


class EvaluateDataSettings(DataSettings):
    """What is measured: pictures degraded by a fixed protocol, or folders of pairs."""

    kind: Literal["synthetic", "folders"] = Field(
        default="synthetic", description="Degrade test pictures, or read `NAME/degraded/` and `NAME/clean/`."
    )
    degradations: Names = Field(
        default=("noise", "jpeg", "haze", "low_light", "scratch"), min_length=1, description="Names measured."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Key of tiles and severities.")
    pictures: SafeText = Field(
        default="docs/training-data.tsv", description="synthetic: table of pictures; one split of it is used."
    )
    split: Literal["test", "reserve", "unseen"] = Field(
        default="test",
        description="synthetic: which; `reserve` judges afresh, after many looks at `test`; `unseen`: both.",
    )
    colour: Literal["as_is", "grey", "toned"] = Field(
        default="as_is",
        description="synthetic: measure black-and-white prints instead: `grey` pictures, and what damage makes of "
        "them, in grey; or pictures `toned` (sepia, yellowed paper) before they are damaged.",
    )
    cut: Literal["tiles", "whole"] = Field(
        default="tiles", description="synthetic: tiles of the pictures, or each `whole` picture once."
    )
    tile_px: int = Field(
        default=256,
        ge=64,
        multiple_of=8,
        description="synthetic: side of a tile; whole pictures are reduced while their shorter side stays as long.",
    )
    tiles_per_degradation: int = Field(
        default=66, ge=1, description="synthetic: tiles of each degradation, spread evenly over the pictures."
    )
    tiles_per_mixture: int = Field(default=22, ge=1, description="synthetic: tiles of each two-fold mixture.")
    mixtures: Literal["all"] | Mixtures = Field(
        default="all", description="synthetic: two-fold mixtures, as [[haze, noise], ...]; `all` is every pair."
    )
    max_mixtures: int | None = Field(
        default=None, ge=1,
        description="synthetic: at most so many of them, in which every degradation takes part about evenly; "
        "null has no limit.",
    )  # fmt: skip
    clean_tiles: int = Field(default=400, ge=0, description="synthetic: tiles without damage, for false positives.")

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        for pair in self.mixtures if self.mixtures != "all" else ():
            if pair[0] == pair[1]:
                raise problem(f"{pair[0]} twice is no mixture", key="mixtures", remedy="name two of data.degradations")
            missing = [name for name in pair if name not in self.degradations]
            if missing:
                remedy = f"use some of: {', '.join(self.degradations)}"
                raise problem(f"{missing[0]} is not among data.degradations", key="mixtures", remedy=remedy)
        return self


class SyntheticPairSettings(DataSettings):
    """Reference pairs made from listed clean pictures, split by picture into references and held-out references."""

    pictures: SafeText = Field(default="docs/training-data.tsv", description="Table of pictures.")
    degradations: Names = Field(min_length=1, description="Names of the bank's degradations.")
    spread_only: Names = Field(
        default=(), description="Of these: what counts for the spread of differences, but isn't to be recognised."
    )
    whole_only: Names = Field(
        default=(),
        description="Of these: what is looked for in whole pictures only; too many details look like it.",
    )
    mixture_references: int = Field(
        default=0,
        ge=0,
        description="Pictures of every two that are looked for everywhere, and in all as many of one alone, on which "
        "the bank learns to name two together; 0: two are known by their amplitudes only.",
    )
    clean_false_positive_rate: float = Field(default=0.01, gt=0, lt=0.5, description="Rate of the stored thresholds.")

    @model_validator(mode="after")
    def _some_are_recognised(self) -> Self:
        for key in ("spread_only", "whole_only"):
            others = [name for name in getattr(self, key) if name not in self.degradations]
            if others:
                raise problem(
                    f"{others[0]} is not among the degradations", key=key, remedy="name some of `degradations`"
                )
        both = set(self.spread_only) & set(self.whole_only)
        if both:
            remedy = "leave it out of one of them"
            raise problem(f"{min(both)} is in spread_only, too", key="whole_only", remedy=remedy)
        if {*self.spread_only, *self.whole_only} == set(self.degradations):
            key = "whole_only" if self.whole_only else "spread_only"
            raise problem("nothing would be left", key=key, remedy="name some of `degradations`")
        return self
