"""Functions for the sandbox's child that behave as decoders do on hostile files."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fdi_lib.errors import ItemError
from fdi_lib.storage.sandbox_child import Reply, allow_memory

MIB = 2**20


def echo(data: bytes, factor: int = 1) -> Reply:
    array = np.frombuffer(data, np.uint8).astype(np.uint16) * factor
    return {"pid": os.getpid(), "bytes": len(data)}, [array, np.zeros((2, 0, 3), np.float32)]


def refuse(data: bytes) -> Reply:
    raise ItemError("truncated", "as the reader said")


def stumble(data: bytes) -> Reply:
    return {}, [np.zeros(3)[int(data)]]


def hang(data: bytes) -> Reply:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def crash(data: bytes) -> Reply:
    if not Path(data.decode()).exists():
        return {}, []
    os.unlink(data.decode())
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def crash_always(data: bytes) -> Reply:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def grow(data: bytes, mib: int) -> Reply:
    allow_memory(200 * MIB)
    return {"sum": int(np.ones(mib * MIB, np.uint8)[:3].sum())}, []


def write(data: bytes) -> Reply:
    Path(data.decode()).write_bytes(b"x")
    return {}, []


def chatter(data: bytes) -> Reply:
    os.write(1, b"a library that prints")
    return {}, []


def environment(data: bytes) -> Reply:
    return {"names": sorted(os.environ)}, []


def numbers(read: Callable[[int, int], bytes], upto: int, then: str = "") -> Iterator[Reply]:
    """Of a file of bytes 0, 1, 2 and so on, one at a time; then what ``then`` says."""
    for number in range(upto):
        yield {"number": number}, [np.frombuffer(read(number, 1), np.uint8)]
    if then == "fail":
        raise ItemError("truncated", "as the reader said")
    if then == "stumble":
        raise IndexError(7)
    if then == "hang":
        hang(b"")
    if then == "crash":
        crash_always(b"")
    if then:  # a marker's path: only the first time
        crash(then.encode())
