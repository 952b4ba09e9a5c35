"""What a person follows a training by: curves for trackers, a log of JSON lines, sheets of samples as PNG.

Does NOT know what is trained. Curves go through Accelerate's trackers; TensorBoard's files lie in ``tensorboard/``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdi_lib.training.checkpoint import LOG

log = logging.getLogger(__name__)


def _nobody(row: Mapping[str, Any]) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Watch:
    """Where a training writes down how it goes. Made in every process; only the first one writes.

    Args:
        folder: local; receives ``log.jsonl``, ``tensorboard/`` and ``images/``.
        trackers: names that Accelerate knows.
        images_every_steps: steps between two sheets.
        tell: called with every line of the log: a progress bar, say.
    """

    folder: Path
    trackers: tuple[str, ...] = ()
    images_every_steps: int = 500
    tell: Callable[[Mapping[str, Any]], None] = _nobody

    @property
    def log(self) -> Path:
        """The log: one JSON object a line."""
        return self.folder / LOG

    def line(self, row: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        with self.log.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        log.info("%s", row)
        self.tell(row)

    def sheet(self, step: int, pixels: np.ndarray) -> None:
        """Write a sheet of samples (uint8 HW3)."""
        path = self.folder / "images" / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def means(names: Sequence[str], values_SK: np.ndarray) -> dict[str, float]:
    """Mean of every column over the steps, to eight digits."""
    return {name: float(f"{value:.8g}") for name, value in zip(names, values_SK.mean(0), strict=True)}
