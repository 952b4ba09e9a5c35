"""Restoration of scanned and photographed images by Feature Difference Instruction (FDI).

``FDIAdapter``, ``ReferenceBank`` and ``Restorer`` are imported when they are first asked for: reading a manifest or a
ledger must not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdi_lib.models.adapter import FDIAdapter
    from fdi_lib.models.bank import ReferenceBank
    from fdi_lib.models.restorer import Restorer

__all__ = ["FDIAdapter", "ReferenceBank", "Restorer"]
_HOMES = {
    "FDIAdapter": "fdi_lib.models.adapter",
    "ReferenceBank": "fdi_lib.models.bank",
    "Restorer": "fdi_lib.models.restorer",
}


def __getattr__(name: str) -> Any:
    """Import a public class from its module (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
