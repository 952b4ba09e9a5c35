"""Attaches adapters' guidance to a base by forward hooks on named modules, and takes it off again.

One mechanism for every base: addition after each encoder point, modulation after each decoder point. diffusers'
residual arguments are not used: a residual of the wrong size can be ignored there silently; here shapes must fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fdi_lib.models.adapter import Guidance
from fdi_lib.models.base import Base


def composed(parts: Sequence[tuple[Guidance, torch.Tensor]]) -> Guidance:
    """Compose several adapters' guidance: additions are summed with their weights; modulation is their weighted mean.

    Args:
        parts: (guidance, weight_B) pairs; weights are per image.

    Returns:
        One guidance. A single adapter at weight 1 is returned unchanged in value.
    """
    weights_KB = torch.stack([weight_B for _, weight_B in parts])
    # Mean for several, but never louder than the weights themselves: a half-weighted single stays half.
    scale_B = 1 / weights_KB.sum(0).clamp(min=1.0) if len(parts) > 1 else torch.ones_like(weights_KB[0])
    additions = [
        sum(w[:, None, None, None] * g.additions[i] for g, w in parts) for i in range(len(parts[0][0].additions))
    ]
    modulations = [
        tuple(sum((w * scale_B)[:, None, None, None] * g.modulations[i][j] for g, w in parts) for j in range(3))
        for i in range(len(parts[0][0].modulations))
    ]
    return Guidance(additions, modulations)  # type: ignore[arg-type]


@contextmanager
def attached(base: Base, guidance: Guidance) -> Iterator[None]:
    """Within the block, the base's forward passes are guided; afterwards it is the bare base again."""
    modules = dict(base.unet.named_modules())
    handles = []
    try:
        for name, addition in zip(base.encoder_points, guidance.additions, strict=True):
            handles.append(modules[name].register_forward_hook(_adding(name, addition)))
        for name, modulation in zip(base.decoder_points, guidance.modulations, strict=True):
            handles.append(modules[name].register_forward_hook(_modulating(modulation)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(name: str, addition: torch.Tensor) -> Any:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape != addition.shape:
            raise ValueError(f"{name}: guidance of shape {tuple(addition.shape)} for features of {tuple(output.shape)}")
        return output + addition.to(output.dtype)

    return hook


def _modulating(modulation: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Any:
    """Eq. 4 and 5 in the form that starts as the exact identity.

    ``Dh = D' + dgamma * (D' - mean(D')) + dbeta`` with ``D' = 2 sigmoid(h) D``; ``std(D') * InstanceNorm(D')`` is
    ``D' - mean(D')``.
    """
    h, dgamma, dbeta = modulation

    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        gated = output * (2 * torch.sigmoid(h)).to(output.dtype)
        centred = gated - gated.mean((2, 3), keepdim=True)
        return gated + dgamma.to(output.dtype) * centred + dbeta.to(output.dtype)

    return hook
