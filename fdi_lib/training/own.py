"""A bank's entry for a degradation that somebody has pairs of, and what it changes for the entries that were there.

Pairs are few: each is looked at in four ways up, which gives the covariances something to go by. Does NOT know where
pairs come from, nor how an adapter is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fdi_lib.core import separability
from fdi_lib.core.moments import PairMoments
from fdi_lib.core.monochrome import grey
from fdi_lib.core.separability import Confusion
from fdi_lib.core.views import ViewSpec, make_views, to_rgb8
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.entry import Entry
from fdi_lib.training.bank import entry_of, pair_moments
from fdi_lib.training.crops import Pair
from fdi_lib.training.features import features_of_views


def entry_from_pairs(
    name: str, encoder: Encoder, bank: ReferenceBank, learnt: Iterable[Pair], held_out: Iterable[Pair]
) -> Entry:
    """Find the FDI of a degradation, its matched filter and its held-out references; the same in grey.

    Args:
        name: of the degradation.
        encoder: the bank's.
        bank: whose clean content the filter is matched against; without a monochrome part, nothing is found in grey.
        learnt: (degraded, clean), uint8 or uint16, HW or HW3: the FDI is their mean difference (Eq. 2).
        held_out: pairs of other pictures; their degraded sides calibrate.
    """
    spec = encoder.view_spec
    looks = (False, True) if bank.monochrome else (False,)
    found: dict[bool, PairMoments] = {}
    # One pair after another: the views of hundreds would fill the memory.
    for degraded, clean in learnt:
        for in_grey in looks:
            pair = pair_moments(encoder, _four_ways(degraded, spec, in_grey), _four_ways(clean, spec, in_grey))
            found[in_grey] = found[in_grey].merge(pair) if in_grey in found else pair
    assert found, "too few pairs are refused before"
    held: dict[bool, list[np.ndarray]] = {in_grey: [] for in_grey in looks}
    for degraded, _ in held_out:
        for in_grey in looks:
            held[in_grey].append(features_of_views(encoder, _four_ways(degraded, spec, in_grey))[1])
    entries = {}
    for in_grey, pairs in found.items():
        against = bank.monochrome if in_grey and bank.monochrome else bank
        entry = entry_of(name, pairs, against.content.covariance_DD, np.concatenate(held[in_grey]))
        entries[in_grey] = replace(entry, pairs=pairs.count // 4, looks=4)
    return replace(entries[False], monochrome=entries.get(True))


def _four_ways(image: np.ndarray, spec: ViewSpec, in_grey: bool) -> list[np.ndarray]:
    """Views of an image as it is, mirrored, upside down, and both."""
    pixels = grey(to_rgb8(image)) if in_grey else image
    return [make_views(pixels[::y, ::x], spec) for y in (1, -1) for x in (1, -1)]


def confusion(bank: ReferenceBank, monochrome: bool = False) -> Confusion:
    """Decide on the bank's own held-out references, as details, with its own thresholds; in colour, or in grey."""
    return separability.confusion(bank.judge("detail", monochrome))
