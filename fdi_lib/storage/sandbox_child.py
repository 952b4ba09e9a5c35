"""The sandbox's child: answers calls under the limits that the system holds it to, and the messages of both sides.

A message is JSON and arrays, never pickled objects. Does NOT know what the functions that it is asked for do.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

import numpy as np

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason

Reply = tuple[dict[str, Any], list[np.ndarray]]
_limited = False  # True in the child: there, memory is


def allow_memory(extra_bytes: int) -> None:
    """In the child: what this process holds already, and so much more; a request beyond that fails.

    In another process nothing is limited: the same functions may be called directly.
    """
    if _limited:
        with suppress(OSError), open("/proc/self/statm", "rb") as file:  # without /proc there is no limit
            data_bytes = int(file.read().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes + extra_bytes, resource.RLIM_INFINITY))


def send(stream: IO[bytes], head: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Write a message: length of the head, the head (JSON, with the arrays' shapes), the arrays' bytes."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    described = head | {"arrays": [[array.dtype.str, array.shape] for array in arrays]}
    text = json.dumps(described).encode()
    stream.write(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: Any) -> Reply:
    """Read what :func:`send` wrote. Raises EOFError where the stream ends."""
    head = json.loads(_exactly(stream, int.from_bytes(_exactly(stream, 8), "little")))
    arrays = []
    for kind, shape in head.pop("arrays"):
        array = np.empty(shape, np.dtype(kind))
        view = array.reshape(-1).view(np.uint8).data
        while view:
            count = stream.readinto(view)
            if not count:
                raise EOFError
            view = view[count:]
        arrays.append(array)
    return head, arrays


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer calls until the parent is gone."""
    while True:
        try:
            asked, received = receive(requests)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, asked["timeout_s"])
        if asked["streams"]:
            _answer_in_parts(asked, requests, replies)
        else:
            # Neither the file nor the picture is held any longer: the next call may be long in coming.
            send(replies, *_answer(asked, received.pop().tobytes()))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(asked: dict[str, Any], data: bytes) -> Reply:
    try:
        result, arrays = _function(asked)(data, **asked["settings"])
        return {"result": result}, arrays
    except Exception as error:
        return {"error": _told(error)}, []


def _answer_in_parts(asked: dict[str, Any], requests: IO[bytes], replies: IO[bytes]) -> None:
    """Send each part; then that it is the end, and of what. The clock stands still while the parent is at work."""
    lock = threading.Lock()

    def read(offset: int, length: int) -> bytes:
        with lock:  # a library may read in threads
            left = signal.setitimer(signal.ITIMER_REAL, 0)[0]
            send(replies, {"read": [offset, length]}, [])
            data: bytes = receive(requests)[1][0].tobytes()
            signal.setitimer(signal.ITIMER_REAL, left)
            return data

    end: list[str] = []
    try:
        for result, arrays in _function(asked)(read, **asked["settings"]):
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(replies, {"result": result}, arrays)
            signal.setitimer(signal.ITIMER_REAL, asked["timeout_s"])
    except Exception as error:
        end = _told(error)
    send(replies, {"end": end}, [])


def _function(asked: dict[str, Any]) -> Callable[..., Any]:
    module, _, name = asked["function"].partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _told(error: Exception) -> list[str]:
    """Reason and detail of an error. A reader's bug that meets bytes it was not written for costs these, by name."""
    if isinstance(error, ItemError):
        return [error.reason, error.detail]
    if isinstance(error, MemoryError):
        return [Reason.DECODER_DIED, "it needs more memory than an image of its size may take"]
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}:{last.lineno}"
    return [Reason.UNREADABLE, f"{type(error).__name__} at {where}: {error}; please report this file"]


def _main() -> None:
    global _limited
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # nothing in here can put off the end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write to files
    _limited = True
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get into an answer
    _serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    # Not as __main__: the functions called must meet the module whose limits were set.
    from fdi_lib.storage import sandbox_child

    sandbox_child._main()
