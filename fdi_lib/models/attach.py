"""Attaches adapters' guidance to a base through forward hooks on named modules, and takes it off again.

One mechanism for every base: addition after each encoder point, modulation after each decoder point. diffusers'
residual arguments are not used: a residual of the wrong size can be ignored there silently; here shapes must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fdi_lib.errors import WeightsError
from fdi_lib.models.adapter import AdapterConfig, Guidance, Modulation

if TYPE_CHECKING:  # a base has its attachment from here
    from fdi_lib.models.base import Base

_EPSILON = 1e-5  # of InstanceNorm, as torch has it; its own function refuses features of a single position
_Change = Callable[[torch.Tensor], torch.Tensor]


def check_fits(config: AdapterConfig, base: Base) -> None:
    """Refuse an adapter whose shape or blocks are another base's.

    Raises:
        WeightsError: names the adapter, what it expects, and what the base has.
    """
    for what, wanted, found in (
        ("encoder blocks", config.encoder_points, tuple(base.encoder_points)),
        ("decoder blocks", config.decoder_points, tuple(base.decoder_points)),
        ("channels", config.channels, tuple(base.channels)),
        ("latent channels", config.latent_channels, base.latent_channels),
    ):
        if wanted and wanted != found:
            raise WeightsError(f"adapter {config.task}: expected a base with {what} {wanted}, found {found}")


def composed(parts: Sequence[tuple[Guidance, torch.Tensor]]) -> Guidance:
    """Compose several adapters' guidance: additions are summed with their weights; modulation is their weighted mean.

    Args:
        parts: (guidance, weight_B) pairs; weights are per image.

    Returns:
        One guidance. A single adapter at weight 1 is returned unchanged in value.

    Raises:
        WeightsError: literal and safe modulators don't mix.
    """
    literal = parts[0][0].literal
    if any(g.literal != literal for g, _ in parts):
        raise WeightsError("composite of adapters with a literal and a safe modulator: train them with one of the two")
    weights_KB = torch.stack([weight_B for _, weight_B in parts])
    # Mean for several, but never louder than the weights themselves: a half-weighted single stays half. The literal
    # form replaces features, so that half of it means nothing: always the mean.
    if literal:
        scale_B = 1 / weights_KB.sum(0).clamp(min=1e-6)
    else:
        scale_B = 1 / weights_KB.sum(0).clamp(min=1.0) if len(parts) > 1 else torch.ones_like(weights_KB[0])
    additions = [
        sum(w[:, None, None, None] * g.additions[i] for g, w in parts if g.additions)
        for i in range(max(len(g.additions) for g, _ in parts))
    ]
    modulations = [
        tuple(
            sum((w * scale_B)[:, None, None, None] * g.modulations[i][j] for g, w in parts if g.modulations)
            for j in range(3)
        )
        for i in range(max(len(g.modulations) for g, _ in parts))
    ]
    return Guidance(additions, modulations, literal)  # type: ignore[arg-type]


class Attachment:
    """Hooks on a UNet's attach points, there for good; they do nothing while :attr:`guidance` is None.

    They stay on so that a compiled UNet stays compiled: guidance comes in as tensors, and another adapter's fit the
    same graph. (Hooks put on and taken off are not looked at again by torch.compile.)

    Args:
        unet: that has the points.
        encoder: names of the modules that are added to, finest first.
        decoder: names of the modules that are modulated, finest first.
    """

    def __init__(self, unet: nn.Module, encoder: Sequence[str], decoder: Sequence[str]) -> None:
        self.guidance: Guidance | None = None
        for i, name in enumerate(encoder):
            unet.get_submodule(name).register_forward_hook(_hook(name, self._adding(name, i)))
        for i, name in enumerate(decoder):
            unet.get_submodule(name).register_forward_hook(_hook(name, self._modulating(i)))

    def _adding(self, name: str, i: int) -> _Change:
        def change(features: torch.Tensor) -> torch.Tensor:
            if self.guidance is None or not self.guidance.additions:
                return features
            return _added(name, features, self.guidance.additions[i])

        return change

    def _modulating(self, i: int) -> _Change:
        def change(features: torch.Tensor) -> torch.Tensor:
            if self.guidance is None or not self.guidance.modulations:
                return features
            modulated = _literally if self.guidance.literal else _modulated
            return modulated(features, self.guidance.modulations[i])

        return change


@contextmanager
def attached(base: Base, guidance: Guidance) -> Iterator[None]:
    """Within the block, the base's forward passes are guided; afterwards it is the bare base again.

    Raises:
        ValueError: not one addition for each encoder point, or one modulation for each decoder point.
    """
    for points, parts in ((base.encoder_points, guidance.additions), (base.decoder_points, guidance.modulations)):
        if parts and len(points) != len(parts):
            raise ValueError(f"guidance of {len(parts)} parts for {len(points)} points: {', '.join(points)}")
    before, base.attachment.guidance = base.attachment.guidance, guidance
    try:
        yield
    finally:
        base.attachment.guidance = before


def _hook(name: str, change: _Change) -> Any:
    """A forward hook; blocks of the UNet return features, attention a tuple of them, down blocks features and skips."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return change(output)
        if not isinstance(output, tuple) or not isinstance(output[0], torch.Tensor):
            raise TypeError(f"{name}: can't guide an output of {type(output).__name__}")
        changed, others = change(output[0]), output[1:]
        # The last skip connection of a down block is its output itself, and stays that.
        if others and isinstance(others[0], tuple) and others[0] and others[0][-1] is output[0]:
            others = ((*others[0][:-1], changed), *others[1:])
        return (changed, *others)

    return hook


def _added(name: str, features: torch.Tensor, addition: torch.Tensor) -> torch.Tensor:
    if features.shape != addition.shape:
        raise ValueError(f"{name}: guidance of shape {tuple(addition.shape)} for features of {tuple(features.shape)}")
    return features + addition.to(features.dtype)


def _modulated(features: torch.Tensor, modulation: Modulation) -> torch.Tensor:
    """Eq. 4 and 5 in the form that starts as the exact identity.

    ``Dh = D' + dgamma * (D' - mean(D')) + dbeta`` with ``D' = 2 sigmoid(h) D``; ``std(D') * InstanceNorm(D')`` is
    ``D' - mean(D')``.
    """
    h, dgamma, dbeta = modulation
    gated = features * (2 * torch.sigmoid(h)).to(features.dtype)
    centred = gated - gated.mean((2, 3), keepdim=True)
    return gated + dgamma.to(features.dtype) * centred + dbeta.to(features.dtype)


def _literally(features: torch.Tensor, modulation: Modulation) -> torch.Tensor:
    """Eq. 4 and 5 as published: ``Dh = gamma * InstanceNorm(sigmoid(h) D) + beta``."""
    h, gamma, beta = modulation
    gated = features * torch.sigmoid(h).to(features.dtype)
    centred = gated - gated.mean((2, 3), keepdim=True)
    normed = centred / (centred.float().square().mean((2, 3), keepdim=True) + _EPSILON).sqrt()
    return gamma.to(features.dtype) * normed.to(features.dtype) + beta.to(features.dtype)
