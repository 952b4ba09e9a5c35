"""The order in which damage happens to a picture, and so the order in which it is undone.

Scene, optics, sensor, carrier (the print or page), file: progressive restoration undoes the last damage first
(measured to be the safe default, docs/method.md).
"""

from __future__ import annotations

from collections.abc import Iterable

_STAGES: tuple[tuple[str, ...], ...] = (
    ("haze", "rain", "snow", "shadow", "low_light", "raindrop"),  # scene, and what lies on the lens
    ("defocus", "motion_blur"),  # optics
    ("noise",),  # sensor
    ("fade", "bleed_through", "stain", "scratch"),  # carrier
    ("low_resolution", "jpeg"),  # file
)
_RANK = {name: (stage, i) for stage, names in enumerate(_STAGES) for i, name in enumerate(names)}
_UNNAMED = (3, 99)  # a user's own degradation: most often damage to the carrier


def in_order_of_damage(names: Iterable[str]) -> list[str]:
    """Sort degradations from the first to happen to the last; ties by name."""
    return sorted(names, key=lambda name: (_RANK.get(name, _UNNAMED), name))


def in_order_of_repair(names: Iterable[str]) -> list[str]:
    """Sort degradations from the last to happen to the first: the order of progressive restoration."""
    return in_order_of_damage(names)[::-1]
