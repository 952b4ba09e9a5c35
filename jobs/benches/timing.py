"""Seconds, memory and operations of work on a device, for benches of models. Does NOT know what the work is."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from statistics import median
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from fdi_lib.errors import CapacityError

_Found = TypeVar("_Found")


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the device has done it."""
    _synchronise(device)
    began = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - began


def median_seconds(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median of so many times, after one to warm up."""
    work()
    return median(seconds_of(work, device) for _ in range(repeats))


def matrix_rate(device: torch.device, side: int) -> float:
    """Operations per second of the product of two square bf16 matrices: the median of five times ten."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def ten() -> None:
        for _ in range(10):
            torch.mm(a, b)

    return 10 * 2 * side**3 / median_seconds(ten, 5, device)


@torch.no_grad()
def flops_of(work: Callable[[], Any]) -> int:
    """Floating-point operations of products and convolutions, as they are asked for; nothing of it may be compiled."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def fitting(work: Callable[[], _Found]) -> _Found | None:
    """What it gives, or None where memory does not suffice."""
    try:
        return work()
    except (torch.OutOfMemoryError, CapacityError):
        return None


def describe(device: torch.device) -> dict[str, Any]:
    """Name and memory of a device, and what drives it."""
    about: dict[str, Any] = {"device": device.type, "torch": torch.__version__, "diffusers": version("diffusers")}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        about |= {"device": found.name, "memory_gib": round(found.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return about


def reset_peak(device: torch.device) -> None:
    """Count :func:`peak_gib` from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Most memory that tensors took on a GPU."""
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None


@contextmanager
def freed() -> Iterator[None]:
    """Afterwards memory and what was compiled are free: the next model needs them."""
    try:
        yield
    finally:
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
