"""The restorer: base, adapters and classifier put together; images in, images out. It knows no files and no Ray.

Suffixes: B batch of tiles, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fdi_lib.core.decision import Decision, Restored
from fdi_lib.core.redetection import steps_left
from fdi_lib.core.views import check_images
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import CheckpointSettings, ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.base_files import fetch_base
from fdi_lib.models.canvas import as_image
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.classifier import Classifier
from fdi_lib.models.device import accelerator, arithmetic
from fdi_lib.models.encoders import find_encoder
from fdi_lib.models.passes import Passes
from fdi_lib.models.presets import ModelFolders, adapter_folders, describe, model_folders
from fdi_lib.models.residents import ResidentAdapters
from fdi_lib.models.sampling import Schedule
from fdi_lib.models.speed import prepare
from fdi_lib.models.stable_diffusion import load_base
from fdi_lib.models.tiles import Tiling

_Names = tuple[str, ...]


class Restorer:
    """Restores images with adapters on one frozen base; keeps the least recently used adapters out of memory."""

    def __init__(
        self,
        *,
        encoder: str | Path | CheckpointSettings,
        base: str | Path | CheckpointSettings,
        bank: str | Path,
        adapters: str | Path | Mapping[str, Path],
        classify: ClassifySettings | None = None,
        restore: RestoreSettings | None = None,
        resident_adapters: int = 8,
        batch: int = 1,
    ) -> None:
        """Load the base; encoder and bank, and each adapter, are loaded when they are first needed.

        Args:
            encoder: folder or Hub id of the encoder, or settings that pin it.
            base: folder or Hub id of the base, or settings that pin it.
            bank: folder of the reference bank.
            adapters: folder that holds one folder per adapter, or each adapter's folder by name.
            classify: a manifest's section; its defaults if not given.
            restore: a manifest's section; its defaults if not given.
            resident_adapters: adapters kept in memory.
            batch: tiles per forward pass; every pass has exactly this many.

        Raises:
            WeightsError: weights are missing or don't belong together.
            ManifestError: a setting doesn't fit the base, or is for an adapter that isn't there.
        """
        named = adapters if isinstance(adapters, Mapping) else adapter_folders(Path(adapters))
        pinned = base if isinstance(base, CheckpointSettings) else CheckpointSettings(uri=str(base))
        frozen = fetch_base(pinned.uri, pinned.revision, pinned.sha256)
        self._folders = folders = ModelFolders(find_encoder(encoder).folder, frozen, Path(bank), named)
        describe(folders, "custom")
        self._settings = settings = restore or RestoreSettings()
        settings.check_adapters(sorted(named))
        self._device = accelerator()
        self._dtype = arithmetic(settings.dtype, self._device)
        self.base = prepare(load_base(folders.base).to(self._device), settings)
        if settings.tile_px % self.base.multiple_px:
            raise ManifestError(
                f"tiles must be a multiple of {self.base.multiple_px} px",
                key="restore.tile_px",
                value=str(settings.tile_px),
                remedy=f"use {-(-settings.tile_px // self.base.multiple_px) * self.base.multiple_px}",
            )
        self._classify = classify or ClassifySettings()
        self._residents = ResidentAdapters(named, self.base, resident_adapters, self._device)
        tiling = Tiling(self.base, settings.tile_px, settings.overlap_px, batch, self._device)
        self._passes = Passes(self.base, tiling, self._residents.get, settings.fidelity)
        self.adapter_hashes = {n: file_sha256(path / "adapter.safetensors") for n, path in sorted(named.items())}

    @classmethod
    def from_settings(
        cls,
        models: ModelSettings,
        classify: ClassifySettings,
        restore: RestoreSettings,
        *,
        resident_adapters: int = 8,
        batch: int = 1,
    ) -> Restorer:
        """Load what a manifest's sections name; see the constructor."""
        found = model_folders(models)
        return cls(
            encoder=found.encoder,
            base=found.base,
            bank=found.bank,
            adapters=found.adapters,
            classify=classify,
            restore=restore,
            resident_adapters=resident_adapters,
            batch=batch,
        )

    @classmethod
    def from_preset(cls, preset: str = "compact") -> Restorer:
        """Load a shipped preset with the manifest's defaults."""
        return cls.from_settings(ModelSettings(preset=cast(Any, preset)), ClassifySettings(), RestoreSettings())

    @cached_property
    def classifier(self) -> Classifier:
        """Encoder and bank. An actor that only restores never loads them: a BLIP-2 would fill most of its memory."""
        return Classifier.from_folders(self._folders, self._classify, self._settings)

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        """See :meth:`Classifier.classify`."""
        return self.classifier.classify(images)

    def classify_without(self, name: str, images: list[np.ndarray]) -> list[Decision]:
        """Decide as :meth:`classify` would if the bank didn't know a degradation."""
        return self.classifier.without(name).classify(images)

    def adapter(self, name: str) -> FDIAdapter:
        """Return a loaded adapter; see :meth:`ResidentAdapters.get`."""
        return self._residents.get(name)

    @property
    def loads(self) -> int:
        """Adapters read from disk so far."""
        return self._residents.loads

    def schedule(self, names: tuple[str, ...]) -> Schedule:
        """Sampling schedule of adapters used together: the highest start and the most steps of any.

        For each adapter: what the manifest sets for it, else for all, else (``auto``) its own.
        """
        each = [self._schedule_of(name) for name in names]
        first = each[0]
        return replace(first, start_t=max(s.start_t for s in each), steps=max(s.steps for s in each))

    def _schedule_of(self, name: str) -> Schedule:
        config, all_s, own = self._residents.get(name).config, self._settings, self._settings.adapters.get(name)

        def chosen(key: str) -> Any:
            special, general = getattr(own, key, None), getattr(all_s, key)
            return special if special is not None else getattr(config, key) if general == "auto" else general

        return Schedule(chosen("init"), chosen("start_t"), chosen("steps"), chosen("guidance_window"))

    def steps_of(self, decision: Decision) -> int:
        """Forward passes per tile that a decision costs."""
        return sum(self.schedule(names).steps for names in _steps(decision))

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        """Restore images.

        Args:
            images: HW (grey) or HW3 (RGB), uint8 or uint16.
            decisions: one an image; without adapters an image comes back as it is.
            noise_keys: see :func:`fdi_lib.core.noise.noise_key`; 0 where not given.

        Returns:
            Images of the same shapes and dtypes.

        Raises:
            FloatingPointError: the model returned NaN or infinity.
            ValueError: not one decision an image, or an image of another kind.
        """
        results = []
        for made in self.restore_each(images, decisions, noise_keys):
            if made.pixels is None:
                raise FloatingPointError(
                    f"the base returned values that are not finite for route {made.decision.route}"
                )
            results.append(made.pixels)
        return results

    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[Restored]:
        """Restore images, and say what was done to each; arguments and errors as :meth:`restore`, but for NaN.

        An image with values that are not finite is computed once more in float32, if that is higher precision.
        """
        check_images(images)
        if len(decisions) != len(images):
            raise ValueError(f"{len(images)} images, but {len(decisions)} decisions")
        keys = noise_keys or [0] * len(images)
        results = [Restored(image, decision) for image, decision in zip(images, decisions, strict=True)]
        routes: dict[tuple[str, str], list[int]] = {}
        for i, decision in enumerate(decisions):
            if decision.adapters:
                routes.setdefault((decision.mode, decision.route), []).append(i)
        for members in routes.values():
            for dtype in (self._dtype, torch.float32):
                made = self._carry_out(
                    [images[i] for i in members], [decisions[i] for i in members], [keys[i] for i in members], dtype
                )
                for i, one in zip(members, made, strict=True):
                    again = results[i].pixels is None and one.pixels is not None
                    results[i] = replace(
                        one, note=_joined(self._retry_note if again else "", self._passes.tiling.note, one.note)
                    )
                members = [i for i in members if results[i].pixels is None]
                if not members or self._dtype == torch.float32:
                    break
        return results

    @property
    def _retry_note(self) -> str:
        return f"computed again in float32: values in {str(self._dtype).removeprefix('torch.')} were not finite"

    def _carry_out(
        self, images: list[np.ndarray], decisions: list[Decision], keys: list[int], dtype: torch.dtype
    ) -> list[Restored]:
        """Restore images of one route; one step after another, each image by its own list of steps."""
        pixels, finite = list(images), [1.0] * len(images)
        weights = [dict(decision.adapters) for decision in decisions]
        left = [_steps(decision) for decision in decisions]
        applied: list[_Names] = [() for _ in images]
        while any(left):
            turns: dict[_Names, list[int]] = {}
            for i, steps in enumerate(left):
                if steps:
                    turns.setdefault(steps[0], []).append(i)
            for names, members in turns.items():
                parts = [np.array([weights[i][n] for i in members], np.float32) for n in names]
                before, part_keys = [pixels[i] for i in members], [keys[i] for i in members]
                like = [images[i] if len(left[i]) == 1 else None for i in members]
                made = self._passes.run(before, names, parts, part_keys, self.schedule(names), like, dtype)
                for i, result in zip(members, made, strict=True):
                    pixels[i], finite[i], applied[i] = result.pixels, result.finite, applied[i] + names
                    left[i] = left[i][1:] if result.finite == 1 else []
                del before, made, result  # a scan's floats are four times its size: none is kept longer than needed
            if self._settings.redetect and any(left):
                self._look_again(images, pixels, left)
        return [self._restored(*item) for item in zip(images, pixels, finite, decisions, applied, strict=True)]

    def _look_again(
        self, images: list[np.ndarray], pixels: list[np.ndarray], left: list[list[tuple[str, ...]]]
    ) -> None:
        """Classify what the images have become, and put their steps left into a new order, or drop them."""
        waiting = [i for i, steps in enumerate(left) if steps]
        seen = self.classifier.classify([as_image(pixels[i], images[i]) for i in waiting])
        for i, decision in zip(waiting, seen, strict=True):
            left[i] = [(name,) for name in steps_left([name for (name,) in left[i]], decision)]

    @staticmethod
    def _restored(image: np.ndarray, out: np.ndarray, finite: float, decision: Decision, applied: _Names) -> Restored:
        weights = dict(decision.adapters)
        if finite < 1:  # steps were broken off: what counts is what was wanted
            return Restored(None, decision, finite)
        done = replace(decision, adapters=tuple((name, weights[name]) for name in applied))
        dropped = [name for name in weights if name not in applied]
        note = f"looks clean after {done.composition}: left out {', '.join(dropped)}" if dropped else ""
        # Steps that were left out had the last one give floats.
        return Restored(as_image(out, image) if out.dtype == np.float32 else out, done, 1.0, note)

    def round_trip(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Images through the base's latent space and back, nothing restored: the most that a latent can give."""
        return self.fidelity_only(images, ())

    def fidelity_only(self, images: list[np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        """The fidelity paths of adapters alone: each corrects the latent as if the base had returned its input."""
        made = self._passes.without_base(list(images), names)
        return [as_image(out, image) for out, image in zip(made, images, strict=True)]


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _steps(decision: Decision) -> list[tuple[str, ...]]:
    """The adapters of each pass: one after another, or all together."""
    names = tuple(name for name, _ in decision.adapters)
    if not names:
        return []
    return [(n,) for n in names] if decision.mode == "progressive" else [names]
