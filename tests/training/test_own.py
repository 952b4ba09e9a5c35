"""A degradation that only a user has: its entry is found from few pairs, and doesn't disturb the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fdi_lib.core.monochrome import grey
from fdi_lib.core.separability import CLEAN
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.entry import Entry
from fdi_lib.training.bank import build_bank, pair_moments
from fdi_lib.training.features import features
from fdi_lib.training.own import _four_ways, confusion, entry_from_pairs
from tests.training.plain_statistics import Statistics, pictures


@pytest.fixture(scope="module")
def bank() -> ReferenceBank:
    content = pictures(80, 0)
    return build_bank(Statistics(), "0" * 64, ("haze", "noise"), content, content[:40], pictures(60, 1),
                      np.ones(60), clean_false_positive_rate=0.02, seed=0)  # fmt: skip


def _dark(images: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [((image * np.float32(0.15)).astype(np.uint8), image) for image in images]


def test_few_pairs_of_a_new_kind_are_recognised(bank: ReferenceBank) -> None:
    entry = entry_from_pairs("dark", Statistics(), bank, _dark(pictures(20, 5)), _dark(pictures(8, 6)))
    assert entry.pairs == 20 and len(entry.held_out_MD) == 8 * 4 and entry.looks == 4
    assert entry.mean_D[0] < -0.3, "brightness falls"
    grown = bank.with_entry(entry)
    q = features(Statistics(), [d for d, _ in _dark(pictures(30, 7))])[1]
    found = [d.route for d in grown.detail.decide(q, max_adapters=2, mode="progressive")]
    assert found.count("dark") >= 27


def test_pairs_one_after_another_give_the_fdi_of_all_at_once(bank: ReferenceBank) -> None:
    pairs = _dark(pictures(9, 5))
    entry = entry_from_pairs("dark", Statistics(), bank, iter(pairs), iter(pairs))
    spec = Statistics().view_spec
    degraded, clean = ([view for pair in pairs for view in _four_ways(pair[side], spec, False)] for side in (0, 1))
    moments = pair_moments(Statistics(), degraded, clean)
    assert moments.count == 4 * entry.pairs == 36
    np.testing.assert_allclose(entry.tokens_TD, moments.fdi_tokens_TD, atol=1e-6)
    np.testing.assert_allclose(entry.mean_D, moments.difference.mean_D, atol=1e-6)
    assert entry.spread == pytest.approx(moments.spread)


def test_grey_and_sixteen_bit_pairs_count_like_others(bank: ReferenceBank) -> None:
    deep = [(d.astype(np.uint16)[..., 0] * 257, c[..., 0]) for d, c in _dark(pictures(8, 5))]
    assert entry_from_pairs("dark", Statistics(), bank, deep, deep).mean_D[0] < -0.3


def test_the_confusion_counts_every_held_out_image_once(bank: ReferenceBank) -> None:
    found = confusion(bank)
    assert found.names == ("haze", "noise") and found.columns[:3] == ("haze", "noise", CLEAN)
    assert found.rows == ("haze", "noise", CLEAN, "(several)")
    held = [*(entry.held_out_MD for entry in bank.entries), bank.clean_ND, bank.mixed_MD]
    assert found.count_RC.sum(1).tolist() == [len(q_ND) for q_ND in held]
    assert found.accuracy(["noise"]) > 0.9


def test_pairs_are_known_in_grey_too(bank: ReferenceBank, tmp_path: Path) -> None:
    content = pictures(80, 0)
    part = build_bank(Statistics(), "0" * 64, ("haze", "noise"), content, content[:40], pictures(60, 1),
                      np.ones(60), clean_false_positive_rate=0.02, seed=0, monochrome=True)  # fmt: skip
    both = replace(bank, monochrome=part)
    learnt, held_out = _dark(pictures(20, 5)), _dark(pictures(8, 6))
    entry = entry_from_pairs("dark", Statistics(), both, learnt, held_out)
    of_grey = [tuple(grey(side) for side in pair) for pair in learnt]
    expected = entry_from_pairs("dark", Statistics(), part, of_grey, held_out)
    assert entry.monochrome is not None and expected.monochrome is None
    np.testing.assert_allclose(entry.monochrome.mean_D, expected.mean_D, atol=1e-6)
    assert not np.allclose(entry.monochrome.mean_D, entry.mean_D, atol=1e-4)

    entry.save(tmp_path / "dark", both.content.mean_D, "0" * 64)
    again = Entry.load(tmp_path / "dark")
    assert again.monochrome is not None and again.monochrome.looks == 4 and again.pairs == 20
    np.testing.assert_allclose(again.monochrome.held_out_MD, entry.monochrome.held_out_MD, rtol=1e-3)
    grown = both.with_entry(again)
    assert grown.monochrome is not None
    q = features(Statistics(), [grey(d) for d, _ in _dark(pictures(30, 7))])[1]
    found = [d.route for d in grown.judge("detail", monochrome=True).decide(q, max_adapters=2, mode="progressive")]
    assert found.count("dark") >= 27
    assert confusion(grown, monochrome=True).accuracy(["dark"]) > 0.8


def test_an_entry_found_in_colour_leaves_the_grey_one_that_is_known(bank: ReferenceBank) -> None:
    both = replace(bank, monochrome=bank)
    assert both.with_entry(replace(bank.entry("noise"), pairs=7)).monochrome is bank
    grown = both.with_entry(replace(bank.entry("noise"), name="grain", pairs=7)).monochrome
    assert grown is not None and grown.entry("grain").pairs == 7
