"""The whole corpus of hostile image files."""

from __future__ import annotations

from functools import cache

from tests.hostile import jpegs, packets, pngs, strangers, tiffs
from tests.hostile.cases import Case, damaged


@cache
def images() -> tuple[Case, ...]:
    """Every hostile image file, always in the same order."""
    return (*damaged(), *jpegs.cases(), *pngs.cases(), *tiffs.cases(), *packets.cases(), *strangers.cases())
