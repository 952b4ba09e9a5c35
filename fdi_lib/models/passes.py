"""One pass of the base over images, tile by tile, guided by one adapter or several together.

It knows neither decisions nor files, nor where adapters come from. Suffixes: B batch of tiles, C channels, H and W
height and width, N tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch

from fdi_lib.core.noise import noise_field
from fdi_lib.core.tone import has_view, whole_view
from fdi_lib.models.adapter import FDIAdapter, Guidance, Modulation
from fdi_lib.models.attach import composed
from fdi_lib.models.base import Base
from fdi_lib.models.canvas import Result
from fdi_lib.models.device import put
from fdi_lib.models.sampling import Schedule, sample
from fdi_lib.models.tiles import Tile, Tiling

_HELD_BATCHES = 4  # whose guidance is kept until an image's last tile has been looked at; about 20 MiB a tile
_Refine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # degraded and output latents -> better output
_Look = tuple[torch.Tensor, Guidance]  # pixels B3HW of a group of tiles, and what the adapters say of them


@dataclass(frozen=True)
class _Step:
    """What is done to some images; see :meth:`Passes.run`."""

    names: tuple[str, ...]
    weights: list[np.ndarray]
    keys: list[int]
    schedule: Schedule

    def of(self, rows: list[int]) -> _Step:
        """The same for some of the images."""
        return replace(self, weights=[w[rows] for w in self.weights], keys=[self.keys[i] for i in rows])


class Passes:
    """What a restorer runs, step by step.

    Args:
        base: the frozen base.
        tiling: how images are cut.
        adapter: gives a loaded adapter by name.
        fidelity: whether the adapters' fidelity paths correct what the base returns.
    """

    def __init__(self, base: Base, tiling: Tiling, adapter: Callable[[str], FDIAdapter], fidelity: bool) -> None:
        self.tiling = tiling
        self._base, self._adapter, self._fidelity = base, adapter, fidelity

    def run(
        self,
        images: list[np.ndarray],
        names: tuple[str, ...],
        weights: list[np.ndarray],
        keys: list[int],
        schedule: Schedule,
        like: Sequence[np.ndarray | None],
        dtype: torch.dtype | None = None,
    ) -> list[Result]:
        """Restore images with adapters together.

        Args:
            images: as :meth:`Tiling.over` takes them.
            names: the adapters.
            weights: for each adapter one weight an image, float32.
            keys: of the images' noise.
            schedule: how the base samples.
            like: what the results shall be, see :class:`fdi_lib.models.canvas.Result`; values may be not finite.
            dtype: what the base computes in, if it isn't its own; see :meth:`Base.computing_in`.

        Raises:
            CapacityError: as :meth:`Tiling.fitting`.
        """
        step = _Step(names, weights, keys, schedule)

        def once() -> list[Result]:
            views: dict[int, np.ndarray] = {}
            # Weights are cast out here: in inference mode they would become tensors that autograd refuses.
            with self._base.computing_in(dtype or self._base.dtype), torch.inference_mode():
                if any(self._adapter(name).config.tone == "whole" for name in names):
                    side = self.tiling.tile_px
                    large = [i for i, image in enumerate(images) if has_view(image.shape, side)]
                    made = self._tiled([whole_view(images[i], side) for i in large], step.of(large))
                    views = {i: result.pixels for i, result in zip(large, made, strict=True)}
                return self._tiled(images, step, like, views)

        return self.tiling.fitting(once)

    def _tiled(
        self,
        images: list[np.ndarray],
        step: _Step,
        like: Sequence[np.ndarray | None] | None = None,
        views: Mapping[int, np.ndarray] = MappingProxyType({}),
    ) -> list[Result]:
        """Restore tile by tile; ``views`` as for :meth:`Tiling.over`."""
        return self.tiling.over(images, self._latents(images, step), like, views)

    def _latents(self, images: list[np.ndarray], step: _Step) -> Iterator[tuple[list[Tile], torch.Tensor]]:
        """Groups of tiles and their restored latents.

        An image's modulation is the mean over its tiles, so that they don't differ in tone: none is restored before all
        have been looked at. What was seen is kept where that is soon; a large image is looked at twice.
        """
        tiles = self.tiling.tiles(images)
        groups = self.tiling.groups(tiles)
        ends = {t.image: number for number, group in enumerate(groups) for t in group}  # group of an image's last tile
        shared = _Shared() if len(tiles) > len(images) else None
        looks: dict[int, _Look] = {}
        looked = 0
        for number, group in enumerate(groups):
            end = ends[group[-1].image] if shared else number
            while looked <= end:
                look = self._look(images, groups[looked], step)
                if shared:
                    shared.add(groups[looked], look[1].modulations)
                if end - number < _HELD_BATCHES:
                    looks[looked] = look
                looked += 1
                del look  # maps of a whole batch
            yield group, self._restored(images, group, step, looks.pop(number, None), shared)

    def _restored(
        self, images: list[np.ndarray], group: list[Tile], step: _Step, look: _Look | None, shared: _Shared | None
    ) -> torch.Tensor:
        image_BCHW, guidance = look or self._look(images, group, step)
        if shared:
            guidance = replace(guidance, modulations=shared.of(group))
        latent = self._base.encode(image_BCHW)
        out = sample(self._base, latent, guidance, step.schedule, self._noise(latent, group, step))
        if self._fidelity:
            with self._base.autocast():
                for name in step.names:
                    out = self._adapter(name).refine(latent, out)
        return out

    @torch.inference_mode()
    def without_base(self, images: list[np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        """Images through the latent space and the fidelity path of each adapter; without names there and back."""
        refiners: list[_Refine] = [self._adapter(name).refine for name in names] or [lambda _, output: output]
        for refine in refiners:
            made = self.tiling.over(images, self._refined(images, refine))
            images = [result.pixels for result in made]
        return images

    def _refined(self, images: list[np.ndarray], refine: _Refine) -> Iterator[tuple[list[Tile], torch.Tensor]]:
        for group in self.tiling.groups(self.tiling.tiles(images)):
            latent = self._base.encode(self.tiling.pixels(images, group))
            with self._base.autocast():
                refined = refine(latent, latent)
            yield group, refined

    def _look(self, images: list[np.ndarray], group: list[Tile], step: _Step) -> _Look:
        image_BCHW, rows = self.tiling.pixels(images, group), [t.image for t in group]
        # Adapters keep float32 weights and compute under autocast, as they were trained: they are small beside the base
        # (at SD 2.1's size 0.3 of 27 ms a tile on an H200), come and go, and the same copy serves float32.
        with self._base.autocast():
            parts = [
                (self._adapter(n).guidance(image_BCHW), put(w[rows], self.tiling.device))
                for n, w in zip(step.names, step.weights, strict=True)
            ]
            return image_BCHW, composed(parts)

    def _noise(self, latent: torch.Tensor, group: list[Tile], step: _Step) -> torch.Tensor | None:
        if step.schedule.init in ("input", "ddim_inversion"):
            return None
        factor, (channels, height, width) = self._base.latent_factor, latent.shape[1:]
        fields = [noise_field(step.keys[t.image], t.y // factor, t.x // factor, height, width, channels) for t in group]
        return put(np.stack(fields), self.tiling.device)


class _Shared:
    """Each image's mean modulation over its tiles."""

    def __init__(self) -> None:
        self._rows: dict[int, list[list[Modulation]]] = {}
        self._means: dict[int, list[Modulation]] = {}

    def add(self, group: list[Tile], modulations: list[Modulation]) -> None:
        """What was seen in a group's tiles."""
        for row, t in enumerate(dict.fromkeys(group)):  # without the last group's repetitions
            self._rows.setdefault(t.image, []).append([(h[row], g[row], b[row]) for h, g, b in modulations])

    def of(self, group: list[Tile]) -> list[Modulation]:
        """For each tile its image's, all of whose tiles were added."""
        images = [t.image for t in group]
        for i in self._rows.keys() & set(images):
            rows = _stacked(self._rows.pop(i))
            self._means[i] = [(h.mean(0), g.mean(0), b.mean(0)) for h, g, b in rows]
        return _stacked([self._means[i] for i in images])


def _stacked(rows: list[list[Modulation]]) -> list[Modulation]:
    """For each row the modulations of every scale, C11 each -> those of a batch of rows."""
    each = [[torch.stack(part) for part in zip(*scale, strict=True)] for scale in zip(*rows, strict=True)]
    return [(h, g, b) for h, g, b in each]
