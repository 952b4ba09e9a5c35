"""Decisions about one image, their written form (composition and route strings), and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

Mode = Literal["progressive", "composite"]
Verdict = Literal["single", "mixture", "clean", "unknown"]


@dataclass(frozen=True)
class Decision:
    """What the classifier says about one image.

    Args:
        verdict: single | mixture | clean | unknown.
        adapters: (name, weight) pairs; in order of application for progressive, sorted by name for composite. None
            where nothing is to be done: clean, unknown, or all that was found is disabled by the manifest.
        mode: how several adapters are combined.
        scores: cosine similarity to every reference direction of the bank, by name.
        amplitudes: explained amplitude per direction (sparse code times the direction's norm), by name.
        energy: detection statistic of the image; clean images lie below ``1``.
        residual: share of the energy that no reference explains, in [0, 1].
    """

    verdict: Verdict
    adapters: tuple[tuple[str, float], ...] = ()
    mode: Mode = "progressive"
    scores: dict[str, float] = field(default_factory=dict)
    amplitudes: dict[str, float] = field(default_factory=dict)
    energy: float = 0.0
    residual: float = 0.0

    @property
    def route(self) -> str:
        """What routing uses: the names only, joined by ``>`` (progressive) or ``+`` (composite)."""
        return _separator(self.mode).join(name for name, _ in self.adapters)

    @property
    def composition(self) -> str:
        """Names with weights to two decimals, ``haze:1.00>noise:1.00``; empty for none."""
        return _separator(self.mode).join(f"{name}:{weight:.2f}" for name, weight in self.adapters)


def told(names: Sequence[str], mode: Mode = "progressive") -> Decision:
    """The decision of someone who knows what happened: these adapters at full weight, in this order."""
    return Decision("mixture" if len(names) > 1 else "single", tuple((name, 1.0) for name in names), mode)


@dataclass(frozen=True, eq=False)
class Restored:
    """What was made of one image.

    Args:
        pixels: shape and dtype of the image; None when values were not finite, in float32 as well.
        decision: what was carried out: with ``restore.redetect`` steps may have changed places, or been left out.
        finite: share of the model's last values that were finite, in [0, 1].
        note: what a person should know, in words; "" if it went as decided.
    """

    pixels: np.ndarray | None
    decision: Decision
    finite: float = 1.0
    note: str = ""


def _separator(mode: Mode) -> str:
    return ">" if mode == "progressive" else "+"


def parse_composition(text: str) -> tuple[tuple[tuple[str, float], ...], Mode]:
    """Read a composition string back into (name, weight) pairs and the mode.

    Raises:
        ValueError: not of the form ``name:weight`` joined by ``>`` or ``+``.
    """
    if not text:
        return (), "progressive"
    mode: Mode = "composite" if "+" in text else "progressive"
    pairs = []
    for part in text.split(_separator(mode)):
        name, colon, weight = part.rpartition(":")
        if not colon or not name:
            raise ValueError(f"not a composition: {text!r}")
        pairs.append((name, float(weight)))
    return tuple(pairs), mode


@lru_cache(4096)  # asked for again and again by the router
def parse_route(route: str) -> tuple[str, ...]:
    """Return the adapter names of a route."""
    return tuple(n for n in route.replace("+", ">").split(">") if n)
