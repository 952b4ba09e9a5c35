"""Which step of a progressive restoration comes next, once the picture has been looked at again.

Does NOT know who looks, or what a step does.
"""

from __future__ import annotations

from collections.abc import Sequence

from fdi_lib.core.decision import Decision


def steps_left(left: Sequence[str], seen: Decision) -> tuple[str, ...]:
    """The steps still to be taken, the next one first.

    None when the bank says clean. Otherwise what the bank still finds comes first, the largest amplitude before others,
    and what it doesn't find keeps its place behind: not found is no proof of clean. Adapters outside the route are
    never added: whoever restores holds the route's, and one decision is what a person can follow.

    Args:
        left: adapters of the route that were not applied yet, in order.
        seen: the decision on the picture as it is now.
    """
    if seen.verdict == "clean":
        return ()
    found = {name for name, _ in seen.adapters}
    return tuple(sorted(left, key=lambda name: (name not in found, -seen.amplitudes.get(name, 0.0) * (name in found))))
