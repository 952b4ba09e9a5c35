"""The adapters that are in memory: loaded when they are first needed, the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch

from fdi_lib.errors import AdapterLoadError
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.attach import check_fits
from fdi_lib.models.base import Base


class ResidentAdapters:
    """At most so many loaded adapters of one base.

    Args:
        folders: of the adapters, by name.
        base: that they must fit.
        capacity: adapters kept.
        device: where they are put.
    """

    def __init__(self, folders: Mapping[str, Path], base: Base, capacity: int, device: torch.device) -> None:
        self._folders, self._base, self._capacity, self._device = folders, base, capacity, device
        self._loaded: OrderedDict[str, FDIAdapter] = OrderedDict()
        self.loads = 0  # adapters read from disk so far

    def get(self, name: str) -> FDIAdapter:
        """Return a loaded adapter, reading it if it is not resident.

        Raises:
            AdapterLoadError: its files are missing or don't fit, or memory is short.
        """
        if name not in self._loaded:
            try:
                adapter = FDIAdapter.from_pretrained(self._folders[name]).to(self._device)
                check_fits(adapter.config, self._base)
                self._loaded[name] = adapter.hold_constants()
            except Exception as error:  # a bad file, a lost disk, no memory: whatever it is, it concerns one adapter
                raise AdapterLoadError(name, f"{type(error).__name__}: {error}") from error
            self.loads += 1
            while len(self._loaded) > self._capacity:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return self._loaded[name]
