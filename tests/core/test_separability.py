"""Probes see what is linearly there and nothing else; a plane shows what lies apart."""

import numpy as np
import pytest

from fdi_lib.core.calibration import HeldOut
from fdi_lib.core.judge import Judge
from fdi_lib.core.separability import CLEAN, SEVERAL, confusion, discriminant, false_positives, plane, probe, recalls
from fdi_lib.core.similarity import Geometry, matched_filter

D = 30


def group(count: int, shift: float, axis: int = 0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, axis, count]).normal(size=(count, D)) + shift * np.eye(D)[axis]


def test_a_probe_finds_what_is_linearly_apart_and_no_more():
    clean = group(300, 0)
    auc, accuracy = probe(clean, group(200, 6, 1))
    assert auc > 0.999 and accuracy > 0.98
    auc, accuracy = probe(clean, group(201, 1.4, 1))  # means 1.4 deviations apart: AUC 0.84 for the best line
    assert 0.75 < auc < 0.9 and 0.65 < accuracy < 0.85


def test_more_numbers_than_images_are_not_learnt_by_heart():
    auc, accuracy = probe(group(24, 0), group(20, 0, 1))
    assert 0.2 < auc < 0.8 and 0.2 < accuracy < 0.8  # without held-out folds both would be 1


def test_neighbours_do_not_vouch_for_one_another():
    """Ten tiles of each picture, pictures alike in clean and damaged: only a fold of whole pictures sees that."""
    rng = np.random.default_rng(0)
    clean, damaged = (np.repeat(5 * rng.normal(size=(10, D)), 10, axis=0) + 0.1 * rng.normal(size=(100, D))
                      for _ in range(2))  # fmt: skip
    assert probe(clean, damaged)[0] < 0.75
    mixed = np.arange(100).reshape(10, 10).T.ravel()  # one tile of each picture in every fold
    assert probe(clean[mixed], damaged[mixed])[0] > 0.95


def test_every_kind_has_its_own_recall_however_rare():
    found = recalls([group(300, 0), group(300, 6, 1), group(8, 6, 2), group(100, 0.0, 3)])
    assert min(found[1], found[2]) > 0.85
    assert found[0] + found[3] < 1.5  # the last kind is clean in all but name
    assert discriminant([group(9, 0), group(5, 1)])[1].shape == (5, 2)


@pytest.fixture(scope="module")
def bank() -> tuple[Geometry, HeldOut]:
    fdi = np.stack([np.eye(D)[0] * 9, np.eye(D)[1] * 9])
    filters = np.stack([matched_filter(f, np.eye(D), np.zeros((D, D))) for f in fdi])
    present = np.array([[1, 0]] * 100 + [[0, 1]] * 90 + [[1, 1]] * 50, bool)
    damaged = np.random.default_rng(1).normal(size=(240, D)) + present @ fdi
    clean = group(1000, 0)
    clean[:10] += fdi[0]  # ten clean images that nobody counts
    weight = np.ones(1000)
    weight[:10] = 0
    return Geometry(("haze", "noise"), np.zeros(D), np.eye(D), fdi, filters), HeldOut(clean, weight, damaged, present)


def test_a_confusion_has_a_row_for_clean_and_for_mixtures(bank):
    judge = Judge(*bank, 0.02)
    found = confusion(judge)
    assert found.rows == ("haze", "noise", CLEAN, SEVERAL)
    assert found.count_RC.sum(1).tolist() == [100, 90, 1000, 50]
    assert found.accuracy(["haze", "noise"]) > 0.95
    rows = dict(zip(found.rows, found.count_RC, strict=True))
    assert rows[SEVERAL][found.columns.index(SEVERAL)] > 45
    touched = 1000 - rows[CLEAN][found.columns.index(CLEAN)]
    assert touched >= 10 and rows[CLEAN][found.columns.index("haze")] >= 8
    share = false_positives(judge)
    assert share == pytest.approx((touched - 10) / 990) and share < 0.04


def test_without_mixtures_there_is_no_row_for_them(bank):
    geometry, held = bank
    alone = held.present_MK.sum(1) == 1
    fewer = HeldOut(held.clean_ND, held.weight_N, held.damaged_MD[alone], held.present_MK[alone])
    assert confusion(Judge(geometry, fewer, 0.02)).rows == ("haze", "noise", CLEAN)


def test_the_plane_holds_the_widest_means():
    groups = [group(200, 0), group(200, 9, 4), group(200, 7, 5), group(200, 1, 6)]
    points, share = plane(groups)
    means = [xy.mean(0) for xy in points]
    assert 0.95 < share <= 1 and all(xy.shape == (200, 2) for xy in points)
    assert min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 6
    assert np.linalg.norm(means[0] - means[3]) < 1.5


def test_two_groups_have_a_plane_too():
    wide = group(300, 0)
    wide[:, 7] *= 5
    points, share = plane([wide, group(300, 9, 4)])
    assert share == pytest.approx(1) and points[0][:, 1].std() > 4
