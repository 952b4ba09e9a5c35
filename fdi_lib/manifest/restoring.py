"""The blocks that say how an image is restored, adapter by adapter where that is wanted, and what a result must pass.

Does NOT know which adapters there are: whoever has the models at hand asks :meth:`RestoreSettings.check_adapters`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fdi_lib.errors import ManifestError
from fdi_lib.manifest.locations import problem
from fdi_lib.manifest.settings import Auto, Name, Settings

Init = Literal["input", "noised_input", "ddim_inversion", "pure_noise"]
StartT = Annotated[float, Field(gt=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Window = Annotated[float, Field(gt=0, le=1)]
Compile = Literal["off", "default", "reduce_overhead"]
Strength = Annotated[float, Field(ge=0, le=2)]


class AdapterSettings(Settings):
    """What is different for one adapter; null takes the value of ``restore``, whose ``auto`` is the adapter's own."""

    strength: Strength | None = Field(default=None, description="In place of `restore.strength`.")
    init: Init | None = Field(default=None, description="In place of `restore.init`.")
    start_t: StartT | None = Field(default=None, description="In place of `restore.start_t`.")
    steps: Steps | None = Field(default=None, description="In place of `restore.steps`.")
    guidance_window: Window | None = Field(default=None, description="In place of `restore.guidance_window`.")
    enabled: bool = Field(
        default=True,
        description="false: never applied; an image with nothing else to undo is kept (reason `policy`).",
    )


class RestoreSettings(Settings):
    """How an image is restored."""

    mode: Literal["progressive", "composite"] = Field(
        default="progressive",
        description="Adapters one after another, or all at once (needs adapters trained together).",
    )
    redetect: bool = Field(
        default=False,
        description="progressive: look again after each step, take the strongest damage left next, stop when clean.",
    )
    init: Init | Auto = Field(
        default="auto",
        description="Where sampling starts; `input` is the degraded latent itself; `auto` is the adapter's own.",
    )
    start_t: StartT | Auto = Field(
        default="auto", description="Noise level of the start as a share of the schedule; `auto` is the adapter's own."
    )
    steps: Steps | Auto = Field(default="auto", description="Sampling steps; `auto` is the adapter's own.")
    guidance_window: Window | Auto = Field(
        default="auto", description="First share of the steps that is guided: max(1, ceil(window * steps)) of them."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Key of the noise, with the image's hash and page.")
    strength: Strength = Field(default=1.0, description="Factor on every adapter's weight.")
    adapters: Mapping[Name, AdapterSettings] = Field(
        default={}, description="What is different for single adapters, by name."
    )
    tile_px: int = Field(
        default=512, ge=64, le=4096, multiple_of=8, description="Side of a tile; memory grows with its square."
    )
    overlap_px: int = Field(
        default=128, ge=0, multiple_of=8, description="Overlap of tiles; a quarter of the tile or more hides seams."
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="`auto`: fp32 on CPU, bf16 where a GPU has it."
    )
    vae: Literal["auto", "dtype"] = Field(
        default="auto",
        description="Arithmetic of a checkpoint's VAE; `auto`: fp32 if its configuration has `force_upcast`. "
        "`dtype`: as `restore.dtype`, but for fp16, in which such a VAE overflows: faster, and coarser.",
    )
    compile: Compile = Field(
        default="off",
        description="Compile the base with torch.compile (needs a C++ compiler on every node); `reduce_overhead` with "
        "CUDA graphs. Minutes at each actor's start; other bits than `off`.",
    )
    channels_last: bool = Field(
        default=False, description="Lay the base's weights and features out channels last; other bits than without."
    )
    fidelity: bool = Field(default=True, description="Keep the fine detail that the latent space would lose.")

    @model_validator(mode="after")
    def _overlap(self) -> Self:
        if self.overlap_px > self.tile_px // 2:
            raise problem("more than half a tile", key="overlap_px", remedy=f"use at most {self.tile_px // 16 * 8}")
        if self.redetect and self.mode != "progressive":
            raise problem("needs one adapter after another", key="redetect", remedy="use mode: progressive")
        return self

    @property
    def disabled(self) -> frozenset[str]:
        """Adapters that are never applied."""
        return frozenset(name for name, own in self.adapters.items() if not own.enabled)

    @property
    def strengths(self) -> dict[str, float]:
        """Strength of the adapters that have their own; all others have ``strength``."""
        return {name: own.strength for name, own in self.adapters.items() if own.strength is not None}

    def check_adapters(self, known: Collection[str]) -> None:
        """Refuse settings for an adapter that isn't there: a typing mistake would otherwise change nothing.

        Raises:
            ManifestError: naming the adapters that are known.
        """
        for name in self.adapters:
            if name not in known:
                raise ManifestError(
                    "no adapter of this name",
                    key=f"restore.adapters.{name}",
                    remedy=f"use some of: {', '.join(sorted(known))}",
                )


class GateSettings(Settings):
    """Do-no-harm checks between a candidate and its source."""

    enabled: bool = Field(
        default=True,
        description="Check that every candidate is plausible; that it is finite and of the source's size is always "
        "checked.",
    )
    on_fail: Literal["review", "keep_original"] = Field(
        default="review", description="What becomes of a refused candidate."
    )
