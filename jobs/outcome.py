"""What a command came to, and how it is shown on standard output. Does NOT know any command."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command came to: its summary, the same for people (empty: a plain table of the summary), its exit code."""

    summary: dict[str, Any]
    text: str = ""
    code: int = 0

    def show(self, as_json: bool) -> None:
        """Print it; without a word where nobody reads any more, as in ``fdi failed OUTPUT | head``."""
        text = json.dumps(self.summary) if as_json else self.text or table(self.summary)
        try:
            print(text)
        except BrokenPipeError:
            _print_nowhere()
        flush()


def flush() -> None:
    """Print what still waits, where somebody reads; otherwise Python would complain at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _print_nowhere()


def _print_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def table(summary: dict[str, Any]) -> str:
    """Plain values of a summary, one a line; nested ones are for ``--json``."""
    shown = {k.replace("_", " "): v for k, v in summary.items() if not isinstance(v, (dict, list))}
    width = max((len(key) for key in shown), default=0)
    return "\n".join(f"{key:<{width}}  {_value(value)}" for key, value in shown.items())


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
