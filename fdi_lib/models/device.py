"""Where models run, in what arithmetic, and the way there and back. Does NOT know what is computed.

The driver is never asked: this is called where the model lives. A GPU works through a queue: whoever waits for one
answer while nothing else is in it leaves the GPU idle. So nothing here waits but what is returned for that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def accelerator() -> torch.device:
    """The device that this process may use: Ray shows an actor only the GPUs it was given."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arithmetic(dtype: str, device: torch.device) -> torch.dtype:
    """Arithmetic of forward passes for the manifest's ``restore.dtype``."""
    if dtype == "auto":
        dtype = "bf16" if device.type == "cuda" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]


def put(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of an array, of its shape and dtype, on a device; it doesn't wait for what a GPU still has to compute."""
    copied = torch.from_numpy(np.array(array, order="C"))
    # From pinned memory the GPU copies by itself; torch gives such memory to nobody else until that is done.
    return copied.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else copied.to(device)


def fetching(tensor: torch.Tensor) -> Callable[[], np.ndarray]:
    """Have a tensor copied to the CPU once it is computed.

    Returns:
        What gives the array, and waits for that copy, but not for what the GPU was given to do later.
    """
    if tensor.device.type != "cuda":
        return tensor.numpy
    here = torch.empty_like(tensor, device="cpu", pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # sleeps: this process reads and writes images meanwhile
    copied.record()

    def fetched() -> np.ndarray:
        copied.synchronize()
        return here.numpy()

    return fetched
