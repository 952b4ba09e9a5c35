"""A child process that is given inputs one by one, and watched: does it answer, in time, and what?"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

CRASH, HANG, UNEXPECTED = "crash", "hang", "unexpected exception"
_LENGTH = struct.Struct("<I")
_STARTING_S = 120.0  # imports, on a busy machine


class Child:
    """Runs a command that :func:`serve`\\ s; starts it anew after each input that ended it.

    Args:
        command: what to run.
        most_seconds: an input that takes longer is a hang, and the child is killed.
    """

    def __init__(self, command: list[str], most_seconds: float) -> None:
        self._command, self._most_seconds = command, most_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, data: bytes) -> tuple[str, str]:
        """Have one input read; return (``CRASH``, ``HANG``, ``UNEXPECTED`` or "", and what there is to tell)."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(_LENGTH.pack(len(data)) + data)
            process.stdin.flush()
        except BrokenPipeError:
            return CRASH, self._end()
        told = self._answer(self._most_seconds)
        if told is None:
            verdict = HANG if process.poll() is None else CRASH
            return verdict, self._end()
        return UNEXPECTED if told else "", told

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            if self._answer(_STARTING_S) != "":
                raise RuntimeError(f"the child did not start: {' '.join(self._command)}")
        return self._process

    def _answer(self, within_s: float) -> str | None:
        """What the child says; None if it says nothing in time, or is gone."""
        ends, found, wanted = time.monotonic() + within_s, b"", _LENGTH.size
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while len(found) < wanted:
            ready, _, _ = select.select([pipe], [], [], max(ends - time.monotonic(), 0))
            more = os.read(pipe, wanted - len(found)) if ready else b""
            if not more:
                self._process.poll() if not ready else self._process.wait()
                return None
            found += more
            if len(found) == _LENGTH.size:
                wanted += _LENGTH.unpack(found)[0]
        return found[_LENGTH.size :].decode()

    def _end(self) -> str:
        """Kill the child, if it still runs; return how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        process.communicate()
        return f"exit {process.returncode}"


def serve(read: Callable[[bytes], None]) -> None:
    """Read inputs from standard input until it ends; answer each with the traceback of what it raised, or nothing."""
    # Libraries print: only answers may go where answers are awaited.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _say(answers, "")  # ready
    while head := sys.stdin.buffer.read(_LENGTH.size):
        data, told = sys.stdin.buffer.read(_LENGTH.unpack(head)[0]), ""
        try:
            read(data)
        except Exception:  # whatever it is: it is what is looked for
            told = traceback.format_exc()
        _say(answers, told)


def _say(answers: object, told: str) -> None:
    raw = told.encode(errors="backslashreplace")
    answers.write(_LENGTH.pack(len(raw)) + raw)  # type: ignore[attr-defined]
    answers.flush()  # type: ignore[attr-defined]
