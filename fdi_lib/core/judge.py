"""What decides about images: references in coordinates of their own, and the thresholds that belong to them.

Whole pictures and details (cuts of larger ones) have a judge each. Does NOT know files, nor which images are which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fdi_lib.core.calibration import HeldOut, at_rate, calibrate
from fdi_lib.core.decision import Decision, Mode
from fdi_lib.core.similarity import Geometry, Thresholds, decide


@dataclass(frozen=True, eq=False)
class Judge:
    """A bank's references, as images of one kind are compared with them.

    Args:
        geometry: the coordinates.
        held_out: references that thresholds are found on.
        rate: clean false-positive rate.
        found: thresholds found before; None finds them when they are asked for.
    """

    geometry: Geometry
    held_out: HeldOut
    rate: float
    found: Thresholds | None = None

    @cached_property
    def thresholds(self) -> Thresholds:
        """Thresholds at the rate."""
        return self.found or calibrate(self.geometry, self.held_out, self.rate)

    def at_rate(self, rate: float) -> Judge:
        """The same with its thresholds found, and the limits of another clean false-positive rate."""
        at = self.thresholds if rate == self.rate else at_rate(self.thresholds, self.geometry, self.held_out, rate)
        return replace(self, rate=rate, found=at)

    def decide(
        self,
        q_ND: np.ndarray,
        *,
        max_adapters: int,
        mode: Mode,
        strength: float = 1.0,
        strengths: Mapping[str, float] | None = None,
    ) -> list[Decision]:
        """See :func:`fdi_lib.core.similarity.decide`."""
        return decide(
            q_ND,
            self.geometry,
            self.thresholds,
            max_adapters=max_adapters,
            mode=mode,
            strength=strength,
            strengths=strengths,
        )
