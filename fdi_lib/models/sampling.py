"""From a degraded latent to a restored one: where sampling starts, its steps, and the window of guidance.

It knows the base and one composed guidance, not where they come from. Shapes: latents B,C,H,W float.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from fdi_lib.manifest.restoring import Init
from fdi_lib.models.adapter import Guidance
from fdi_lib.models.attach import attached
from fdi_lib.models.base import Base


@dataclass(frozen=True)
class Schedule:
    """How an image is sampled.

    Args:
        init: ``input`` (the degraded latent itself, told to be at level ``start_t``), ``noised_input`` (noised to it),
            ``ddim_inversion`` (inverted to it by the bare base, Eq. 3) or ``pure_noise``.
        start_t: in (0, 1], fraction of the schedule's training steps at which sampling starts.
        steps: forward passes.
        guidance_window: fraction of the steps, from the first, that are guided; at least one is.
    """

    init: Init
    start_t: float
    steps: int
    guidance_window: float

    @property
    def guided_steps(self) -> int:
        """``max(1, ceil(guidance_window * steps))``."""
        return max(1, math.ceil(self.guidance_window * self.steps))


def timesteps(base: Base, schedule: Schedule) -> list[int]:
    """Time steps from the start down; as many as ``schedule.steps``."""
    top = max(1, round(schedule.start_t * len(base.alphas)))
    return [max(0, round(top * (1 - i / schedule.steps)) - 1) for i in range(schedule.steps)]


def sample(
    base: Base, degraded: torch.Tensor, guidance: Guidance, schedule: Schedule, noise: torch.Tensor | None
) -> torch.Tensor:
    """Restore latents: deterministic DDIM (Song et al., 2021) from the chosen start, guided in its first steps.

    Args:
        base: the frozen base.
        degraded: latent of the degraded image.
        guidance: composed guidance for these images.
        schedule: start, steps and window.
        noise: standard normal, like ``degraded``; needed by ``noised_input`` and ``pure_noise``.
    """
    levels = timesteps(base, schedule)
    z = _start(base, degraded, schedule, noise)
    for i, t in enumerate(levels):
        t_B = torch.full((len(z),), t, dtype=torch.int64, device=z.device)
        if i < schedule.guided_steps:
            with attached(base, guidance):
                clean = base.predict_clean(z, t_B)
        else:
            clean = base.predict_clean(z, t_B)
        if i + 1 == len(levels):
            return clean
        z = _moved(base, z, clean, t, levels[i + 1])
    raise ValueError("a schedule has at least one step")


def _moved(base: Base, z: torch.Tensor, clean: torch.Tensor, t: int, to: int) -> torch.Tensor:
    """One deterministic DDIM move of ``z`` from level ``t`` to level ``to`` along the predicted clean latent."""
    abar, abar_to = base.alphas[t], base.alphas[to]
    epsilon = (z - abar.sqrt() * clean) / (1 - abar).sqrt()
    return abar_to.sqrt() * clean + (1 - abar_to).sqrt() * epsilon


def _start(base: Base, degraded: torch.Tensor, schedule: Schedule, noise: torch.Tensor | None) -> torch.Tensor:
    levels = timesteps(base, schedule)
    if schedule.init == "input":
        return degraded
    if schedule.init == "ddim_inversion":
        z, climb = degraded, [0, *reversed(levels)]
        for t, to in itertools.pairwise(climb):
            clean = base.predict_clean(z, torch.full((len(z),), t, dtype=torch.int64, device=z.device))
            z = _moved(base, z, clean, t, to)
        return z
    if noise is None:
        raise ValueError(f"init {schedule.init} needs noise")
    abar = base.alphas[levels[0]]
    return noise if schedule.init == "pure_noise" else abar.sqrt() * degraded + (1 - abar).sqrt() * noise
