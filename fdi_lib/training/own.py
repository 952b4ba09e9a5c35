"""A bank's entry for a degradation that somebody has pairs of, and what it changes for the entries that were there.

Pairs are few: each is looked at in four ways up, which gives the covariances something to go by. Does NOT know where
pairs come from, nor how an adapter is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fdi_lib.core import separability
from fdi_lib.core.moments import merged
from fdi_lib.core.separability import Confusion
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.entry import Entry
from fdi_lib.training.bank import entry_of, pair_moments
from fdi_lib.training.crops import Pair
from fdi_lib.training.features import features_of_views


def entry_from_pairs(
    name: str, encoder: Encoder, bank: ReferenceBank, learnt: Iterable[Pair], held_out: Iterable[Pair]
) -> Entry:
    """Find the FDI of a degradation, its matched filter and its held-out references.

    Args:
        name: of the degradation.
        encoder: the bank's.
        bank: whose clean content the filter is matched against.
        learnt: (degraded, clean), uint8 or uint16, HW or HW3: the FDI is their mean difference (Eq. 2).
        held_out: pairs of other pictures; their degraded sides calibrate.
    """
    spec = encoder.view_spec
    # One pair after another: the views of hundreds would fill the memory.
    pairs = merged(pair_moments(encoder, _four_ways(d, spec), _four_ways(c, spec)) for d, c in learnt)
    assert pairs is not None, "too few pairs are refused before"
    held_MD = [features_of_views(encoder, _four_ways(side, spec))[1] for side, _ in held_out]
    entry = entry_of(name, pairs, bank.content.covariance_DD, np.concatenate(held_MD))
    return replace(entry, pairs=pairs.count // 4, looks=4)


def _four_ways(image: np.ndarray, spec: ViewSpec) -> list[np.ndarray]:
    """Views of an image as it is, mirrored, upside down, and both."""
    return [make_views(image[::y, ::x], spec) for y in (1, -1) for x in (1, -1)]


def confusion(bank: ReferenceBank) -> Confusion:
    """Decide on the bank's own held-out references, as details, with its own thresholds."""
    return separability.confusion(bank.detail)
