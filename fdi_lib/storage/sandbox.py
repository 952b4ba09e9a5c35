"""Runs what opens hostile bytes in a child process that the system ends when it takes too long or too much memory.

A decoder in C may hang, crash, or ask for all memory there is; in a process of its own that costs one image. The child
arms an alarm that nothing in it catches, so a hang ends even where its parent has died. What comes back is JSON and
arrays, never pickled objects. Here is the parent's side. Does NOT know images: a call names a function and gives it
bytes, or lets it ask for them.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason
from fdi_lib.storage import sandbox_child
from fdi_lib.storage.sandbox_child import Reply, receive, send

_TRIES = 2  # a child that the system ended for others' sake gets a second chance; one that hung doesn't
_PIPE_BYTES = 2**20
_END_S = 5.0  # for a child without work to end by itself
_idle: list[Sandbox] = []  # for streams
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
        asked = _request(function, settings, timeout_s, streams=False)
        with self._lock:
            for tries_left in reversed(range(_TRIES)):
                child = self._living()
                try:
                    assert child.stdin and child.stdout
                    send(child.stdin, asked, [np.frombuffer(data, np.uint8)])
                    told, arrays = receive(child.stdout)
                    break
                except (EOFError, BrokenPipeError):
                    self._mourn(timeout_s, tries_left)
                except BaseException:  # whatever is left in the pipe is of this call: nobody else may read it
                    child.kill()
                    self._end()
                    raise
        if "error" in told:
            raise ItemError(*told["error"])
        return told["result"], arrays

    def stream(
        self, function: Callable[..., Iterator[Reply]], read: Callable[[int, int], bytes], timeout_s: float,
        **settings: Any,
    ) -> Iterator[Reply]:  # fmt: skip
        """Yield what ``function(read, **settings)`` yields, run in the child, which reads through this process.

        Args:
            function: at the top of a module; yields what :meth:`call` returns, always the same.
            read: bytes of a range: offset and length.
            timeout_s: longest time for each that is yielded; waiting for ``read``, or for who takes it, doesn't count.
            settings: what JSON can hold.

        Raises:
            ItemError: as :meth:`call`, behind what came before; anything that ``read`` raises.
        """
        asked, taken = _request(function, settings, timeout_s, streams=True), 0
        with self._lock:
            for tries_left in reversed(range(_TRIES)):
                child, number = self._living(), 0
                try:
                    assert child.stdin and child.stdout
                    send(child.stdin, asked, [])
                    while "end" not in (answer := receive(child.stdout))[0]:
                        told, arrays = answer
                        if "read" in told:
                            send(child.stdin, {}, [np.frombuffer(read(*told["read"]), np.uint8)])
                            continue
                        number += 1
                        if number > taken:  # else it was yielded before the child died
                            taken = number
                            yield told["result"], arrays
                    break
                except (EOFError, BrokenPipeError):
                    self._mourn(timeout_s, tries_left)
                except BaseException:
                    child.kill()
                    self._end()
                    raise
        if answer[0]["end"]:
            raise ItemError(*answer[0]["end"])

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._child:
                self._end()

    def _living(self) -> subprocess.Popen[bytes]:
        return self._child if self._child and self._child.poll() is None else self._start()

    def _mourn(self, timeout_s: float, tries_left: int) -> None:
        """Say what the child died of, unless it may be tried again."""
        died_of = -self._end()
        if died_of == signal.SIGALRM:
            raise ItemError(Reason.TIMEOUT, f"not decoded within {timeout_s:g} s") from None
        if not tries_left:
            name = signal.Signals(died_of).name if died_of > 0 else f"exit code {-died_of}"
            raise ItemError(Reason.DECODER_DIED, f"its decoder died of {name}, twice") from None

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", sandbox_child.__name__]
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


def stream(function: Callable[..., Iterator[Reply]], *arguments: Any, **settings: Any) -> Iterator[Reply]:
    """As :meth:`Sandbox.stream`, in a sandbox that nobody else uses meanwhile."""
    try:
        sandbox = _idle.pop()
    except IndexError:
        sandbox = Sandbox()
        atexit.register(sandbox.close)
    try:
        yield from sandbox.stream(function, *arguments, **settings)
    finally:
        _idle.append(sandbox)


def _request(function: Callable[..., Any], settings: dict[str, Any], timeout_s: float, streams: bool) -> dict[str, Any]:
    name = f"{function.__module__}:{function.__qualname__}"
    return {"function": name, "settings": settings, "timeout_s": timeout_s, "streams": streams}


def _path() -> str:
    """Where the child finds this package, and what its parent was told of."""
    return os.pathsep.join(path for path in sys.path if path)
