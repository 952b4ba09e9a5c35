"""The restorer: base, adapters and classifier put together; images in, images out. It knows no files and no Ray.

Suffixes: B batch of tiles, C channels, H and W height and width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fdi_lib.core.decision import Decision
from fdi_lib.core.noise import noise_field
from fdi_lib.core.tiling import blend_window, cut, tile_starts
from fdi_lib.core.views import ViewSpec, check_images
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import CheckpointSettings, ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.adapter import FDIAdapter, Guidance, Modulation
from fdi_lib.models.attach import check_fits, composed
from fdi_lib.models.base_files import fetch_base
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.classifier import Classifier
from fdi_lib.models.device import accelerator, arithmetic
from fdi_lib.models.encoders import find_encoder
from fdi_lib.models.presets import ModelFolders, adapter_folders, describe, model_folders
from fdi_lib.models.sampling import Init, Schedule, sample
from fdi_lib.models.stable_diffusion import load_base
from fdi_lib.storage.images import from_float_rgb, to_float_rgb


@dataclass(frozen=True)
class _Tile:
    image: int
    y: int
    x: int


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
            ManifestError: a setting doesn't fit the base.
        """
        named = adapters if isinstance(adapters, Mapping) else adapter_folders(Path(adapters))
        pinned = base if isinstance(base, CheckpointSettings) else CheckpointSettings(uri=str(base))
        frozen = fetch_base(pinned.uri, pinned.revision, pinned.sha256)
        self._folders = folders = ModelFolders(find_encoder(encoder).folder, frozen, Path(bank), named)
        describe(folders, "custom")
        self._settings = settings = restore or RestoreSettings()
        self._device = accelerator()
        self._dtype = arithmetic(settings.dtype, self._device)
        self.base = load_base(folders.base).to(self._device)
        if settings.tile_px % self.base.multiple_px:
            raise ManifestError(
                f"tiles must be a multiple of {self.base.multiple_px} px",
                key="restore.tile_px",
                value=str(settings.tile_px),
                remedy=f"use {-(-settings.tile_px // self.base.multiple_px) * self.base.multiple_px}",
            )
        self._classify = classify or ClassifySettings()
        self._capacity, self._batch = resident_adapters, batch
        self._adapters: OrderedDict[str, FDIAdapter] = OrderedDict()
        self.loads = 0  # adapters read from disk so far
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
        folders = model_folders(models)
        return cls(
            encoder=folders.encoder,
            base=folders.base,
            bank=folders.bank,
            adapters=folders.adapters,
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

    @property
    def view_spec(self) -> ViewSpec:
        """The views that :meth:`classify_views` expects."""
        return self.classifier.view_spec

    def classify_views(self, views: np.ndarray) -> list[Decision]:
        """See :meth:`Classifier.classify_views`."""
        return self.classifier.classify_views(views)

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        """See :meth:`Classifier.classify`."""
        return self.classifier.classify(images)

    def adapter(self, name: str) -> FDIAdapter:
        """Return a loaded adapter, reading it if it is not resident.

        Raises:
            WeightsError: there is no such adapter, or its files don't fit.
        """
        if name not in self._adapters:
            adapter = FDIAdapter.from_pretrained(self._folders.adapters[name]).to(self._device)
            check_fits(adapter.config, self.base)
            self._adapters[name] = adapter.hold_constants()
            self.loads += 1
            while len(self._adapters) > self._capacity:
                self._adapters.popitem(last=False)
        self._adapters.move_to_end(name)
        return self._adapters[name]

    def schedule(self, names: tuple[str, ...]) -> Schedule:
        """Sampling schedule of adapters used together: the manifest's, else their own (highest start, most steps)."""
        s, configs = self._settings, [self.adapter(n).config for n in names]
        first = configs[0]
        return Schedule(
            cast(Init, first.init if s.init == "auto" else s.init),
            max(c.start_t for c in configs) if s.start_t == "auto" else s.start_t,
            max(c.steps for c in configs) if s.steps == "auto" else s.steps,
            first.guidance_window if s.guidance_window == "auto" else s.guidance_window,
        )

    def steps_of(self, decision: Decision) -> int:
        """Forward passes per tile that a decision costs."""
        return sum(self.schedule(names).steps for names in self._passes(decision))

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
        check_images(images)
        if len(decisions) != len(images):
            raise ValueError(f"{len(images)} images, but {len(decisions)} decisions")
        keys = noise_keys or [0] * len(images)
        result = list(images)
        routes: dict[tuple[str, str], list[int]] = {}
        for i, decision in enumerate(decisions):
            if decision.adapters:
                routes.setdefault((decision.mode, decision.route), []).append(i)
        for members in routes.values():
            pixels = [to_float_rgb(images[i]) * 2 - 1 for i in members]
            for names in self._passes(decisions[members[0]]):
                weights = [dict(decisions[i].adapters) for i in members]
                parts = [np.array([w[n] for w in weights], np.float32) for n in names]
                with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                    pixels = self._pass(pixels, names, parts, [keys[i] for i in members])
            for i, out in zip(members, pixels, strict=True):
                if not np.isfinite(out).all():
                    raise FloatingPointError(
                        f"the base returned values that are not finite for route {decisions[i].route}"
                    )
                result[i] = from_float_rgb(np.clip(out / 2 + 0.5, 0, 1), images[i])
        return result

    @staticmethod
    def _passes(decision: Decision) -> list[tuple[str, ...]]:
        names = tuple(name for name, _ in decision.adapters)
        return [(n,) for n in names] if decision.mode == "progressive" else [names]

    @torch.inference_mode()
    def _pass(
        self, images: list[np.ndarray], names: tuple[str, ...], weights: list[np.ndarray], keys: list[int]
    ) -> list[np.ndarray]:
        """One run of the base over all tiles of all images, guided by ``names`` together."""
        tile, overlap = self._settings.tile_px, self._settings.overlap_px
        tiles = [
            _Tile(i, y, x)
            for i, image in enumerate(images)
            for y in tile_starts(image.shape[0], tile, overlap)
            for x in tile_starts(image.shape[1], tile, overlap)
        ]
        shared = self._shared_modulation(images, tiles, names, weights)
        schedule = self.schedule(names)
        sums = [np.zeros(image.shape, np.float32) for image in images]
        totals = [np.zeros(image.shape[:2], np.float32) for image in images]
        whole = blend_window(tile, overlap)
        for done, (group, image_BCHW) in enumerate(self._batches(images, tiles)):
            guidance = self._guidance(image_BCHW, group, names, weights)
            if shared is not None:
                rows = [t.image for t in group]
                guidance = replace(guidance, modulations=[(h[rows], g[rows], b[rows]) for h, g, b in shared])
            latent = self.base.encode(image_BCHW)
            out = sample(self.base, latent, guidance, schedule, self._noise(latent, group, keys, schedule))
            if self._settings.fidelity:
                for name in names:
                    out = self.adapter(name).refine(latent, out)
            restored = self.base.decode(out.float()).permute(0, 2, 3, 1).cpu().numpy()
            real = group[: len(tiles) - done * self._batch]  # the padding of the last batch is dropped
            for t, piece in zip(real, restored, strict=False):
                height, width = (min(tile, n - at) for n, at in zip(images[t.image].shape[:2], (t.y, t.x), strict=True))
                alone = max(images[t.image].shape[:2]) <= tile
                window = np.ones((height, width), np.float32) if alone else whole[:height, :width]
                area = np.s_[t.y : t.y + height, t.x : t.x + width]
                sums[t.image][area] += piece[:height, :width] * window[..., None]
                totals[t.image][area] += window
        return [s / n[..., None] for s, n in zip(sums, totals, strict=True)]

    def _batches(self, images: list[np.ndarray], tiles: list[_Tile]) -> Iterator[tuple[list[_Tile], torch.Tensor]]:
        """Groups of exactly ``batch`` tiles (the last one repeats its last tile) and their pixels B3HW in [-1, 1]."""
        for first in range(0, len(tiles), self._batch):
            group = tiles[first : first + self._batch]
            group += [group[-1]] * (self._batch - len(group))
            cuts = [cut(images[t.image], t.y, t.x, self._settings.tile_px) for t in group]
            yield group, torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2).contiguous().to(self._device)

    def _guidance(
        self, image_BCHW: torch.Tensor, group: list[_Tile], names: tuple[str, ...], weights: list[np.ndarray]
    ) -> Guidance:
        rows = [t.image for t in group]
        return composed(
            [
                (self.adapter(n).guidance(image_BCHW), torch.from_numpy(w[rows]).to(self._device))
                for n, w in zip(names, weights, strict=True)
            ]
        )

    def _shared_modulation(
        self, images: list[np.ndarray], tiles: list[_Tile], names: tuple[str, ...], weights: list[np.ndarray]
    ) -> list[Modulation] | None:
        """Each image's mean modulation over its tiles, so that tiles don't differ in tone; None if all fit one tile."""
        if len(tiles) == len(images):
            return None
        looks = [self._guidance(image_BCHW, group, names, weights).modulations
                 for group, image_BCHW in self._batches(images, tiles)]  # fmt: skip
        owner_N = torch.tensor([t.image for t in tiles], device=self._device)

        def mean_by_image(level: int, part: int) -> torch.Tensor:
            of_tiles = torch.cat([look[level][part] for look in looks])[: len(tiles)]
            return torch.stack([of_tiles[owner_N == i].mean(0) for i in range(len(images))])

        return [(mean_by_image(i, 0), mean_by_image(i, 1), mean_by_image(i, 2)) for i in range(len(looks[0]))]

    def _noise(
        self, latent: torch.Tensor, group: list[_Tile], keys: list[int], schedule: Schedule
    ) -> torch.Tensor | None:
        if schedule.init in ("input", "ddim_inversion"):
            return None
        factor, (channels, height, width) = self.base.latent_factor, latent.shape[1:]
        fields = [noise_field(keys[t.image], t.y // factor, t.x // factor, height, width, channels) for t in group]
        return torch.from_numpy(np.stack(fields)).to(self._device)
