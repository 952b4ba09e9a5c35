"""How far a job is: a bar on a terminal, a log line every ten seconds elsewhere. Standard error only.

Does NOT know what is counted beyond the counts that a unit returns.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fdi_lib.records import Status

log = logging.getLogger(__name__)
_EVERY_S = 10.0


class Tally:
    """Adds up the counts of units; use as a context manager.

    Args:
        total_bytes: returns the size of the source once its listing is complete, else None; asked every ten seconds.
    """

    def __init__(self, total_bytes: Callable[[], int | None] = lambda: None) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.decided = 0
        self.started = time.monotonic()
        self._total_bytes, self._done_bytes = total_bytes, 0
        self._total: int | None = None
        self._told = self._asked = self.started
        self._bar = _bar()
        self._task = self._bar.add_task("", total=None, text="starting")

    @property
    def images(self) -> int:
        """Images finished by this run."""
        return self.counts["images"]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def begin(self, done_bytes: int) -> None:
        """Start from what earlier runs finished, bytes of the source; it counts as no progress of this one."""
        self._done_bytes = done_bytes
        self._bar.reset(self._task, completed=done_bytes)

    def add(self, counts: Mapping[str, Any]) -> None:
        """Count one unit."""
        for step, spent in counts["seconds"].items():
            self.seconds[step] += spent
        self.counts.update({name: value for name, value in counts.items() if name != "seconds"})
        self._show()

    def watch(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Pass decision rows on, adding up what reading and classifying them took."""
        for rows in tables:
            self.decided += rows.num_rows
            for step in ("decode", "classify"):
                self.seconds[step] += pc.sum(rows[f"{step}_s"]).as_py() or 0.0
            yield rows

    def failed_more_than(self, fraction: float, of_at_least: int = 1) -> bool:
        """Whether more than ``fraction`` of the images decided by this run failed.

        Of those decided, not of those finished: broken files need no model, and are finished first.
        """
        return self.decided >= of_at_least and self.counts[Status.FAILED] > fraction * self.decided

    def _show(self) -> None:
        now = time.monotonic()
        if self._total is None and now - self._asked >= _EVERY_S:
            self._total, self._asked = self._total_bytes(), now
        rate = self.images / max(self.elapsed_s, 1e-6)
        done = self._done_bytes + self.counts["source_bytes"]
        found = ", ".join(f"{self.counts[status]} {status}" for status in Status if self.counts[status])
        text = f"{self.images} images, {rate:.1f}/s: {found}"
        self._bar.update(self._task, total=self._total, completed=done, text=text)
        if self._bar.disable and now - self._told >= _EVERY_S:
            share = f" ({min(done / self._total, 1):.0%} of the bytes)" if self._total else ""
            log.info("%s%s", text, share)
            self._told = now

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
