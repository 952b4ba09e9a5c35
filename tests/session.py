"""A command as a process of its own, in a session of its own: only what a test started is ever killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]


class Session:
    """A running command; use as a context manager, whose end kills what is left of the session.

    Args:
        command: program and arguments.
        errors: file that its standard error is appended to.
        environment: added to this process's.
    """

    def __init__(self, command: list[str], errors: Path, environment: Mapping[str, str] | None = None) -> None:
        self.errors = errors
        with errors.open("a") as sink:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                env=os.environ | dict(environment or {}),
            )

    def pids(self, title: bytes = b"") -> list[int]:
        """Processes of the session whose title begins so, dead ones left out."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                ours = int(fields[3]) == self.process.pid and fields[0] not in "ZX"
                if ours and (stat.parent / "cmdline").read_bytes().startswith(title):
                    found.append(int(stat.parent.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def kill(self, pids: list[int], how: int = signal.SIGKILL) -> None:
        """Send a signal to processes of the session."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, how)

    def end(self, timeout_s: float = 400) -> tuple[int, str]:
        """Wait for the command; return its exit code and standard output."""
        out, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out.decode()

    def summary(self) -> dict[str, Any]:
        """Wait for the command to succeed; return the JSON object on the last line of its standard output."""
        code, out = self.end()
        assert code == 0, self.errors.read_text()[-3000:]
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        return summary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(self.pids())
        self.process.communicate()
