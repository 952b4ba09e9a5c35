"""How far a training is: a bar on a terminal, a log line elsewhere. Workers tell a small actor, the driver looks at it.

Standard error only. Does NOT know Ray Train.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
_EVERY_S = 1.0


class _Notice:
    """Holds the latest line of the log."""

    def __init__(self) -> None:
        self._row: dict[str, Any] = {}

    def tell(self, row: dict[str, Any]) -> None:
        self._row |= row

    def look(self) -> dict[str, Any]:
        return self._row


class Board:
    """Shows a training of so many steps while the block runs.

    Args:
        steps: of the whole training.
    """

    def __init__(self, steps: int) -> None:
        self.actor = ray.remote(_Notice).options(num_cpus=0).remote()
        self._steps, self._told = steps, -1
        console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=steps, text="starting")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                self._show(ray.get(self.actor.look.remote()))
            except RayError:  # its node was lost: the training goes on, and its log is kept with it
                return

    def _show(self, row: Mapping[str, Any]) -> None:
        step = row.get("step", -1)
        if step == self._told:
            return
        self._told = step
        shown = {"loss": ".4f", "images_per_s": ".1f", "validation_psnr": ".2f"}
        values = ", ".join(f"{name} {row[name]:{form}}" for name, form in shown.items() if name in row)
        text = f"step {step} of {self._steps}: {values}"
        self._bar.update(self._task, completed=step, text=text)
        if self._bar.disable:
            log.info("%s", text)

    def __enter__(self) -> Self:
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with suppress(RayError):  # the board's node may be gone; the training isn't
            if kind is None:
                self._show(ray.get(self.actor.look.remote()))
        self._bar.stop()
        ray.kill(self.actor)
