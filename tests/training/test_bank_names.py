"""What a bank's network learns to name, and on what (:mod:`fdi_lib.training.namer`)."""

from pathlib import Path
from typing import Any

import numpy as np

from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.entry import Entry
from fdi_lib.training.bank import build_bank
from fdi_lib.training.features import degraded, features
from tests.training.plain_statistics import Statistics, pictures


def test_a_synthetic_bank_learns_to_name_two_together(tmp_path: Path) -> None:
    made = _naming()
    assert made.namer is not None and made.namer.known_K.tolist() == [True, True, False]
    both, one, clean = (
        features(Statistics(), [degraded(k, p, [9, i]) for i, p in enumerate(pictures(30, 3))])[1]
        for k in (("haze", "noise"), ("noise",), ())
    )
    odds_K = [np.median(_odds(made, q), axis=0) for q in (both, one, clean)]
    assert odds_K[0][0] > odds_K[1][0] + 1 and odds_K[0].min() > 0 > odds_K[2].max()
    made.save_pretrained(tmp_path)
    again = ReferenceBank.from_pretrained(tmp_path)
    assert again.detail.thresholds.margin == made._as_stored().detail.thresholds.margin
    np.testing.assert_allclose(_odds(again, both), _odds(made, both), atol=0.1)
    assert again.without("jpeg").namer.known_K.tolist() == [True, True] and again.without("noise").namer is None
    again.save_fdi("noise", tmp_path / "noise")  # its other version was measured with nobody else
    anew = again.with_entry(Entry.load(tmp_path / "noise"))
    assert anew.namer is None and anew.detail.thresholds.margin == 0


def test_pictures_beside_the_content_teach_naming_only() -> None:
    pale = [(215 + 0.12 * picture).astype(np.uint8) for picture in pictures(20, 4)]
    plain, taught = _naming(), _naming(beside=pale[:10])
    np.testing.assert_array_equal(plain.content.mean_D, taught.content.mean_D)
    np.testing.assert_array_equal(plain.content.covariance_DD, taught.content.covariance_DD)
    noisy = features(Statistics(), [degraded(("noise",), p, [9, i]) for i, p in enumerate(pale[10:])])[1]
    haze = [np.median(_odds(bank, noisy)[:, 0]) for bank in (plain, taught)]
    assert haze[1] < haze[0] - 1, "pale, but not hazy"


def _naming(**more: Any) -> ReferenceBank:
    content, names, mixed = pictures(30, 0), ("haze", "noise", "jpeg"), ("haze", "noise")
    return build_bank(Statistics(), "0" * 64, names, content, content[:20], pictures(30, 1), np.ones(30), seed=0,
                      clean_false_positive_rate=0.02, mixed=mixed, mixture_references=150, **more)  # fmt: skip


def _odds(bank: ReferenceBank, q_ND: np.ndarray) -> np.ndarray:
    return bank.namer.log_odds(bank.geometry.residual(q_ND))[:, :2]
