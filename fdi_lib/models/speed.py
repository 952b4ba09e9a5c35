"""How fast a base computes: arithmetic, memory layout and compilation, by the manifest's settings.

Batches have one shape, so that a network is compiled once: guided and, where some steps are not guided, bare. There is
no mode that times kernels against each other (torch's ``max-autotune``): actors would choose differently, and their
bytes differ. Does NOT know adapters, nor what is computed.
"""

from __future__ import annotations

from typing import Any

import torch

from fdi_lib.errors import ManifestError
from fdi_lib.manifest.restoring import Compile, RestoreSettings
from fdi_lib.models.base import Base
from fdi_lib.models.device import arithmetic

_MODES: dict[Compile, str] = {"default": "default", "reduce_overhead": "reduce-overhead"}  # torch's names


def prepare(base: Base, settings: RestoreSettings) -> Base:
    """Make a base in float32, on its device, compute as set, and return it. Networks are compiled at their first pass.

    Raises:
        ManifestError: torch.compile does not work here.
    """
    device = base.alphas.device
    base.exact_vae = settings.vae == "auto"
    base.compute_in(arithmetic(settings.dtype, device))
    if settings.channels_last:
        base.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.compile != "off":
        _check_compiler(settings.compile, device)
        for network in base.networks:
            # `forward`, not the module: its hooks are none, and each class of network has a cache of its own.
            network.forward = _compiled(network.forward, settings.compile)
    return base


def _compiled(function: Any, compile: Compile) -> Any:
    return torch.compile(function, mode=_MODES[compile], dynamic=False)


def _check_compiler(compile: Compile, device: torch.device) -> None:
    """Compile a trifle: a machine without a compiler is to say so before it has an image in its hands."""
    try:
        _compiled(torch.neg, compile)(torch.ones(2, device=device))
    except Exception as error:  # of Inductor, Triton or the compiler: whatever it is, nothing here can be compiled
        raise ManifestError(
            f"torch.compile does not work on this machine ({type(error).__name__}: {str(error).splitlines()[0]})",
            key="restore.compile",
            value=compile,
            remedy="install a C++ compiler (g++) on every node that restores, or use restore.compile=off",
        ) from error
