"""The bench finds streamed moments equal to two passes, and would find a difference or growth."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.benches import bank
from jobs.benches.bank import errors, memory_mib, streamed, two_passes


def test_streamed_moments_equal_two_passes(ray_local, monkeypatch):
    monkeypatch.setattr(bank, "UNIT_PAIRS", 64)
    counts: list[int] = []
    moments = streamed(1000, 12, 7, counts.append)
    assert counts == sorted(counts) and counts[-1] == moments.count == 1000
    truth = two_passes(1000, 12, 7)
    assert max(errors(moments, truth).values()) < 1e-10
    assert len(moments.sample.row_ND) == 1000

    truth["clean mean"] = truth["clean mean"] * (1 + 1e-4)
    assert errors(moments, truth)["clean mean"] == pytest.approx(1e-4, rel=0.01)


def test_growth_is_that_of_the_second_half():
    assert bank._growth([100, 110, 105, 110]) == 1
    assert bank._growth([100, 110, 150, 220]) == 2
    assert bank._growth([100]) == 1


def test_memory_of_this_process_is_seen():
    before = memory_mib()[0]
    held = np.ones(2**24)  # 128 MiB
    assert 100 < memory_mib()[0] - before < 200
    assert held[0] == 1
