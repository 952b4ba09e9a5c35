"""A degradation that only a user has: its entry is found from few pairs, and doesn't disturb the others."""

import numpy as np
import pytest

from fdi_lib.core.separability import CLEAN
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.training.bank import build_bank, pair_moments
from fdi_lib.training.features import features
from fdi_lib.training.own import _four_ways, confusion, entry_from_pairs
from tests.training.test_bank import _pictures, _Statistics


@pytest.fixture(scope="module")
def bank() -> ReferenceBank:
    content = _pictures(80, 0)
    return build_bank(_Statistics(), "0" * 64, ("haze", "noise"), content, content[:40], _pictures(60, 1),
                      np.ones(60), clean_false_positive_rate=0.02, seed=0)  # fmt: skip


def _dark(images: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [((image * np.float32(0.15)).astype(np.uint8), image) for image in images]


def test_few_pairs_of_a_new_kind_are_recognised(bank: ReferenceBank) -> None:
    entry = entry_from_pairs("dark", _Statistics(), bank, _dark(_pictures(20, 5)), _dark(_pictures(8, 6)))
    assert entry.pairs == 20 and len(entry.held_out_MD) == 8 * 4 and entry.looks == 4
    assert entry.mean_D[0] < -0.3, "brightness falls"
    grown = bank.with_entry(entry)
    q = features(_Statistics(), [d for d, _ in _dark(_pictures(30, 7))])[1]
    found = [d.route for d in grown.detail.decide(q, max_adapters=2, mode="progressive")]
    assert found.count("dark") >= 27


def test_pairs_one_after_another_give_the_fdi_of_all_at_once(bank: ReferenceBank) -> None:
    pairs = _dark(_pictures(9, 5))
    entry = entry_from_pairs("dark", _Statistics(), bank, iter(pairs), iter(pairs))
    spec = _Statistics().view_spec
    degraded, clean = ([view for pair in pairs for view in _four_ways(pair[side], spec)] for side in (0, 1))
    moments = pair_moments(_Statistics(), degraded, clean)
    assert moments.count == 4 * entry.pairs == 36
    np.testing.assert_allclose(entry.tokens_TD, moments.fdi_tokens_TD, atol=1e-6)
    np.testing.assert_allclose(entry.mean_D, moments.difference.mean_D, atol=1e-6)
    assert entry.spread == pytest.approx(moments.spread)


def test_grey_and_sixteen_bit_pairs_count_like_others(bank: ReferenceBank) -> None:
    deep = [(d.astype(np.uint16)[..., 0] * 257, c[..., 0]) for d, c in _dark(_pictures(8, 5))]
    assert entry_from_pairs("dark", _Statistics(), bank, deep, deep).mean_D[0] < -0.3


def test_the_confusion_counts_every_held_out_image_once(bank: ReferenceBank) -> None:
    found = confusion(bank)
    assert found.names == ("haze", "noise") and found.columns[:3] == ("haze", "noise", CLEAN)
    assert found.rows == ("haze", "noise", CLEAN, "(several)")
    held = [*(entry.held_out_MD for entry in bank.entries), bank.clean_ND, bank.mixed_MD]
    assert found.count_RC.sum(1).tolist() == [len(q_ND) for q_ND in held]
    assert found.accuracy(["noise"]) > 0.9
