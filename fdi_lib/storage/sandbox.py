"""Runs what opens hostile bytes in a child process that the system ends when it takes too long or too much memory.

A decoder in C may hang, crash, or ask for all memory there is; in a process of its own that costs one image. The child
arms an alarm that nothing in it catches, so a hang ends even where its parent has died. What comes back is JSON and
arrays, never pickled objects. Does NOT know images: a call names a function and gives it bytes.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import IO, Any

import numpy as np

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason

Reply = tuple[dict[str, Any], list[np.ndarray]]
_TRIES = 2  # a child that the system ended for others' sake gets a second chance; one that hung doesn't
_PIPE_BYTES = 2**20
_END_S = 5.0  # for a child without work to end by itself
_limited = False  # True in the child: there, memory is
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VIPS_CONCURRENCY": "1",
    "VIPS_DISC_THRESHOLD": "1t",  # nothing is written to a temporary file
    "VIPS_WARNING": "0",
}


class Sandbox:
    """One child process, started when first needed and again when it has died. One call at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def call(self, function: Callable[..., Reply], data: bytes, timeout_s: float, **settings: Any) -> Reply:
        """Return ``function(data, **settings)``, run in the child.

        Args:
            function: at the top of a module; returns a dictionary that JSON can hold, and arrays.
            data: what it opens.
            timeout_s: longest time.
            settings: what JSON can hold.

        Raises:
            ItemError: as the function raised it; ``TIMEOUT``; ``DECODER_DIED``, twice in a row; ``UNREADABLE`` when it
                raised anything else, with the error and where it came from.
        """
        asked = {"function": f"{function.__module__}:{function.__qualname__}", "settings": settings}
        with self._lock:
            for tries_left in reversed(range(_TRIES)):
                child = self._child if self._child and self._child.poll() is None else self._start()
                try:
                    assert child.stdin and child.stdout
                    _send(child.stdin, asked | {"timeout_s": timeout_s}, [np.frombuffer(data, np.uint8)])
                    told, arrays = _receive(child.stdout)
                    break
                except (EOFError, BrokenPipeError):
                    died_of = -self._end()
                    if died_of == signal.SIGALRM:
                        raise ItemError(Reason.TIMEOUT, f"not decoded within {timeout_s:g} s") from None
                    if not tries_left:
                        name = signal.Signals(died_of).name if died_of > 0 else f"exit code {-died_of}"
                        raise ItemError(Reason.DECODER_DIED, f"its decoder died of {name}, twice") from None
                except BaseException:  # whatever is left in the pipe is of this call: nobody else may read it
                    child.kill()
                    self._end()
                    raise
        if "error" in told:
            raise ItemError(*told["error"])
        return told["result"], arrays

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._child:
                self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}  # no secrets
        environment = ours | _ENVIRONMENT | {"PYTHONPATH": _path()}
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            pipesize=_PIPE_BYTES,
        )
        return self._child

    def _end(self) -> int:
        """Close the child's pipes, wait for it, and return its exit code."""
        child, self._child = self._child, None
        assert child and child.stdin and child.stdout
        with suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        try:
            return child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


@cache
def shared() -> Sandbox:
    """The sandbox of this process; its child ends with it."""
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox


def allow_memory(extra_bytes: int) -> None:
    """In the child: what this process holds already, and so much more; a request beyond that fails.

    In another process nothing is limited: the same functions may be called directly.
    """
    if _limited:
        with suppress(OSError), open("/proc/self/statm", "rb") as file:  # without /proc there is no limit
            data_bytes = int(file.read().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes + extra_bytes, resource.RLIM_INFINITY))


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer calls until the parent is gone."""
    while True:
        try:
            asked, received = _receive(requests)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, asked["timeout_s"])
        # Neither the file nor the picture is held any longer: the next call may be long in coming.
        _send(replies, *_answer(asked, received.pop().tobytes()))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(asked: dict[str, Any], data: bytes) -> Reply:
    module, _, name = asked["function"].partition(":")
    try:
        result, arrays = getattr(import_module(module), name)(data, **asked["settings"])
        return {"result": result}, arrays
    except ItemError as error:
        return {"error": [error.reason, error.detail]}, []
    except MemoryError:
        return {"error": [Reason.DECODER_DIED, "it needs more memory than an image of its size may take"]}, []
    # The one place where a reader's bug meets the bytes that it was not written for: it costs this image, by name.
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"
        return {
            "error": [Reason.UNREADABLE, f"{type(error).__name__} at {where}: {error}; please report this file"]
        }, []


def _send(stream: IO[bytes], head: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Write a message: length of the head, the head (JSON, with the arrays' shapes), the arrays' bytes."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    described = head | {"arrays": [[array.dtype.str, array.shape] for array in arrays]}
    text = json.dumps(described).encode()
    stream.write(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def _receive(stream: Any) -> Reply:
    """Read what :func:`_send` wrote. Raises EOFError where the stream ends."""
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


def _path() -> str:
    """Where the child finds this package, and what its parent was told of."""
    return os.pathsep.join(path for path in sys.path if path)


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
    from fdi_lib.storage import sandbox

    sandbox._main()
