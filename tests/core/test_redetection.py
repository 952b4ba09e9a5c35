"""What is left of a route after another look."""

from __future__ import annotations

import pytest

from fdi_lib.core.decision import Decision
from fdi_lib.core.redetection import steps_left

LEFT = ("jpeg", "noise", "haze")


def seen(*names: str, verdict: str = "mixture", **amplitudes: float) -> Decision:
    return Decision(verdict, tuple((name, 1.0) for name in names), amplitudes=amplitudes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (seen(verdict="clean", haze=9.0), ()),
        (seen("haze", "noise", noise=1.0, haze=2.0), ("haze", "noise", "jpeg")),
        (seen("noise", verdict="single", noise=1.0, haze=2.0), ("noise", "jpeg", "haze")),
        (seen("scratch", verdict="single", scratch=5.0), LEFT),  # outside the route: nothing is added
        (seen(verdict="unknown"), LEFT),
    ],
)
def test_steps_left(decision: Decision, expected: tuple[str, ...]) -> None:
    assert steps_left(LEFT, decision) == expected
