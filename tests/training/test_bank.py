"""A bank built with an encoder whose features are plain image statistics tells noise from haze from clean."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fdi_lib.core.moments import PairMoments
from fdi_lib.core.monochrome import grey
from fdi_lib.core.similarity import statistics
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.errors import WeightsError
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.entry import Entry
from fdi_lib.training.bank import bank_from_moments, build_bank
from fdi_lib.training.features import Damage, degraded, features, making_views
from tests.training.plain_statistics import Statistics, pictures


@pytest.fixture(scope="module")
def bank() -> ReferenceBank:
    content = pictures(80, 0)
    return build_bank(Statistics(), "0" * 64, ("haze", "noise"), content, content[:40], pictures(60, 1),
                      np.ones(60), clean_false_positive_rate=0.02, seed=0)  # fmt: skip


def _routes(bank: ReferenceBank, images: list[np.ndarray]) -> list[str]:
    q = features(Statistics(), images)[1]
    decisions = bank.detail.decide(q, max_adapters=2, mode="progressive")
    return [d.route or d.verdict for d in decisions]


def test_new_pictures_get_the_right_answer(bank):
    clean = pictures(40, 2)
    assert _routes(bank, clean).count("clean") >= 37
    for name in ("haze", "noise"):
        routes = _routes(bank, [degraded((name,), image, [9, i]) for i, image in enumerate(clean)])
        assert routes.count(name) >= 34, name


def test_what_is_stored_is_what_was_built(bank, tmp_path):
    bank.save_pretrained(tmp_path)
    again = ReferenceBank.from_pretrained(tmp_path, "0" * 64)
    images = pictures(20, 3)
    images = [*images, *(degraded(("noise",), image, [4, i]) for i, image in enumerate(images))]
    assert _routes(again, images) == _routes(bank, images)
    np.testing.assert_array_equal(again.tokens_of("noise"), bank.tokens_of("noise"))
    assert again.names == ("haze", "noise")


def test_covariances_are_stored_as_triangles_and_those_stored_whole_are_read(bank, tmp_path):
    bank.save_pretrained(tmp_path)
    path = tmp_path / "bank.safetensors"
    stored, width = load_file(path), len(bank.content.mean_D)
    assert stored["content.covariance_DD"].shape == (width * (width + 1) // 2,)
    for key in ("covariance_DD", "within_DD"):
        stored[f"content.{key}"] = getattr(bank.content, key).astype(np.float32)
    packed = ReferenceBank.from_pretrained(tmp_path)
    save_file(stored, path)
    whole = ReferenceBank.from_pretrained(tmp_path)
    for key in ("covariance_DD", "within_DD"):
        assert np.array_equal(getattr(packed.content, key), getattr(whole.content, key))
        assert np.array_equal(getattr(packed.content, key), getattr(packed.content, key).T)


def test_a_stricter_rate_moves_the_limits_outwards(bank):
    for judge in (bank.detail, bank.whole):
        strict, lax = (judge.at_rate(rate).thresholds for rate in (0.01, 0.2))
        assert (strict.limit_K >= lax.limit_K).all() and strict.unknown_energy > lax.unknown_energy


def test_fdi_is_the_mean_difference_of_pairs(bank):
    content = pictures(80, 0)[:40]
    pairs = [degraded(("noise",), image, [0, 1, i]) for i, image in enumerate(content)]
    difference = features(Statistics(), pairs)[1] - features(Statistics(), content)[1]
    np.testing.assert_allclose(bank.geometry.fdi_KD[1], difference.mean(0), rtol=1e-6)


def test_an_adapters_fdi_file_holds_the_banks_entry(bank, tmp_path):
    bank.save_fdi("noise", tmp_path)
    with safe_open(tmp_path / "fdi.safetensors", "numpy") as file:
        assert file.metadata() == {"encoder_sha256": "0" * 64, "name": "noise"}
        assert set(file.keys()) == {"tokens", "mean", "filter", "clean_mean", "spread", "n", "held_out"}
        np.testing.assert_array_equal(file.get_tensor("tokens"), bank.tokens_of("noise"))
        np.testing.assert_allclose(file.get_tensor("mean"), bank.geometry.fdi_KD[1], rtol=1e-6)
        assert file.get_tensor("n") == 40


def _turning(count: int, seed: int) -> PairMoments:
    """Pairs whose severe damage points away from where the mild points: no single direction has both before it."""
    rng = np.random.default_rng(seed)
    clean, severe = rng.normal(size=(count, 6)), rng.random(count) < 0.5
    difference = np.where(severe[:, None], [1, -30, 0, 0, 0, 0], [0, 6, 0, 0, 0, 0]) + 0.1 * rng.normal(size=(count, 6))
    names, tokens = [str(i) for i in range(count)], difference.sum(0).reshape(2, 3)
    return PairMoments.of(names, clean, clean + difference, tokens, count, 0)


def test_prototypes_by_severity_find_what_the_mean_misses(tmp_path):
    banks = [
        bank_from_moments({"haze": _turning(400, 0)}, {"haze": _turning(300, 1)}, 0.02, "0" * 64, count)
        for count in (1, 2)
    ]
    one, two = (bank.entries[0] for bank in banks)
    assert one.severities is None and two.severities is not None
    mild, severe = two.severities.fdi_PD / np.linalg.norm(two.severities.fdi_PD, axis=1, keepdims=True)
    assert mild[1] > 0.95 and severe[1] < -0.95
    np.testing.assert_array_equal(one.filter_D, two.filter_D)
    fresh = _turning(300, 2).sample.row_ND[:, 6:]
    found = [
        float((statistics(fresh, bank.detail.geometry, bank.detail.thresholds)["detect"][:, 0] > 1).mean())
        for bank in banks
    ]
    assert found[0] < 0.6 and found[1] > 0.9

    banks[1].save_pretrained(tmp_path / "bank")
    again = ReferenceBank.from_pretrained(tmp_path / "bank")
    np.testing.assert_allclose(again.geometry.scores(fresh), banks[1].geometry.scores(fresh), rtol=1e-5)
    assert not np.allclose(again.geometry.scores(fresh), banks[0].geometry.scores(fresh), rtol=1e-2)
    again.save_fdi("haze", tmp_path / "haze")
    carried = Entry.load(tmp_path / "haze").severities
    assert carried is not None
    np.testing.assert_array_equal(carried.filter_PD, again.entries[0].severities.filter_PD)


def test_one_prototype_leaves_a_banks_files_as_they_were(bank, tmp_path):
    """Nothing new is stored, and scores are the plain product of before, to the last bit."""
    bank.save_pretrained(tmp_path)
    with safe_open(tmp_path / "bank.safetensors", "numpy") as file:
        assert not [key for key in file.keys() if "severity" in key]  # noqa: SIM118 - the file is no mapping
    q = features(Statistics(), pictures(10, 4))[1]
    g = bank.geometry
    np.testing.assert_array_equal(g.scores(q), (q - g.mean_D) @ g.filter_KD.T)


def test_a_synthetic_bank_takes_prototypes_from_its_references():
    content = pictures(40, 0)
    made = build_bank(Statistics(), "0" * 64, ("haze", "noise"), content, content[:24], pictures(30, 1),
                      np.ones(30), clean_false_positive_rate=0.02, seed=0, prototypes=3)  # fmt: skip
    for entry in made.entries:
        assert entry.severities is not None and entry.severities.filter_PD.shape == (3, made.content.mean_D.size)
        along = entry.severities.fdi_PD @ entry.mean_D
        assert (np.diff(along) > 0).all()
        np.testing.assert_allclose(entry.severities.fdi_PD.mean(0), entry.mean_D, rtol=1e-4)


def test_a_bank_without_a_degradation_is_calibrated_anew(bank):
    alone = bank.without("haze")
    assert alone.names == ("noise",) and bank.names == ("haze", "noise")
    assert not alone.mixed_MK.all(axis=1).any() and alone.mixed_MK.shape == (len(alone.mixed_MD), 1)
    assert len(alone.detail.thresholds.limit_K) == 1
    hazy = [degraded(("haze",), image, [9, i]) for i, image in enumerate(pictures(40, 2))]
    assert "haze" in _routes(bank, hazy) and "haze" not in _routes(alone, hazy)
    with pytest.raises(KeyError):
        alone.without("haze")


def test_processes_damage_the_pictures_as_this_one_does():
    content, held_out = pictures(12, 0), pictures(8, 1)
    one, other = (
        build_bank(Statistics(), "0" * 64, ("haze", "noise"), content, content[:6], held_out, np.ones(8),
                   clean_false_positive_rate=0.02, seed=0, workers=workers)
        for workers in (0, 1)
    )  # fmt: skip
    for a, b in zip(one.entries, other.entries, strict=True):
        np.testing.assert_array_equal(a.tokens_TD, b.tokens_TD)
        np.testing.assert_array_equal(a.held_out_MD, b.held_out_MD)
    np.testing.assert_array_equal(one.mixed_MD, other.mixed_MD)
    np.testing.assert_array_equal(one.clean_ND, other.clean_ND)


def test_whole_pictures_are_kept_apart_and_stored(tmp_path):
    content, whole = pictures(80, 0), pictures(30, 5)
    made = build_bank(Statistics(), "0" * 64, ("haze", "noise"), content, content[:40], pictures(60, 1), np.ones(60),
                      whole=whole, whole_weights=[0.5] * 30, clean_false_positive_rate=0.02, seed=0)  # fmt: skip
    assert made.whole_N.tolist() == [False] * 60 + [True] * 30 and made.weight_N[-1] == 0.5
    np.testing.assert_allclose(made.clean_ND[60:], features(Statistics(), whole)[1])
    assert (made.whole.thresholds.limit_K != made.detail.thresholds.limit_K).any()
    replace(made, whole_only=frozenset({"haze"})).save_pretrained(tmp_path)
    again = ReferenceBank.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.whole_N, made.whole_N)
    np.testing.assert_allclose(again.whole.thresholds.limit_K, made.whole.thresholds.limit_K, rtol=1e-2)
    assert again.whole.geometry.names == ("haze", "noise") and again.detail.geometry.names == ("noise",)
    np.testing.assert_allclose(
        again.detail.thresholds.limit_K, made.without("haze").detail.thresholds.limit_K, rtol=1e-2
    )
    alone = again.without("haze")
    assert not alone.whole_only and alone.whole.geometry.names == alone.detail.geometry.names == ("noise",)
    assert again.without("noise").detail.geometry.names == ("haze",)  # there is nothing else
    assert again.with_entry(again.entry("haze")).detail.geometry.names == ("noise", "haze")  # somebody's own counts


def test_without_whole_pictures_both_judge_alike(bank):
    np.testing.assert_array_equal(bank.whole.thresholds.limit_K, bank.detail.thresholds.limit_K)


@pytest.mark.parametrize(("gone", "added"), [("whole", None), (None, "mixture.present"), (None, "namer.known")])
def test_a_bank_of_an_older_form_is_refused(bank, tmp_path, gone, added):
    bank.save_pretrained(tmp_path)
    arrays = {k: v for k, v in load_file(tmp_path / "bank.safetensors").items() if k != gone}
    arrays |= {added: np.zeros(2, np.uint8)} if added else {}
    save_file(arrays, tmp_path / "bank.safetensors")
    with pytest.raises(WeightsError, match=r"of another form .* `fdi bank build`|; build it again"):
        ReferenceBank.from_pretrained(tmp_path)


def test_columns_that_were_chosen_are_stored_in_their_order(bank, tmp_path):
    present = np.ones((len(bank.mixed_MD), 2), bool, order="F")
    present[:, 1] = np.random.default_rng(0).random(len(present)) < 0.5
    assert not present.flags.c_contiguous
    replace(bank, mixed_MK=present).save_pretrained(tmp_path)
    np.testing.assert_array_equal(ReferenceBank.from_pretrained(tmp_path).mixed_MK, present)


def test_held_out_mixtures_are_of_all_pairs(bank):
    names = ("haze", "noise", "jpeg", "low_light", "scratch", "snow")
    clean = pictures(30, 4)
    made = build_bank(Statistics(), "0" * 64, names, clean, clean[:8], clean, np.full(30, 0.2),
                      clean_false_positive_rate=0.02, seed=0)  # fmt: skip
    assert len({tuple(row) for row in made.mixed_MK.tolist()}) == 15 and (made.mixed_MK.sum(1) == 2).all()
    assert made.entry("haze").looks == round(len(made.entry("haze").held_out_MD) / 6)  # six pictures' worth
    assert made.detail.held_out.weight_M[: len(made.entry("haze").held_out_MD)].sum() == pytest.approx(6, rel=0.1)


def test_a_bank_for_monochrome_images_goes_along(bank, tmp_path):
    content = pictures(80, 0)
    made = build_bank(Statistics(), "0" * 64, ("haze", "noise"), content, content[:40], pictures(60, 1),
                      np.ones(60), clean_false_positive_rate=0.02, seed=0, monochrome=True)  # fmt: skip
    both = replace(bank, monochrome=made)
    assert both.judge("detail", monochrome=True) is made.detail and both.judge("detail") is both.detail
    assert bank.judge("whole", monochrome=True) is bank.whole  # there is no other
    both.save_pretrained(tmp_path)
    again = ReferenceBank.from_pretrained(tmp_path, "0" * 64)
    assert again.monochrome is not None
    np.testing.assert_allclose(again.monochrome.clean_ND, made.clean_ND, rtol=1e-3)
    np.testing.assert_array_equal(again.tokens_of("haze"), bank.tokens_of("haze"))
    assert again.without("haze").judge("detail", monochrome=True).geometry.names == ("noise",)
    grown = again.with_entry(replace(bank.entry("haze"), name="fog"))
    assert grown.judge("whole", monochrome=True).geometry.names == ("haze", "noise", "fog")

    bank.save_pretrained(tmp_path)  # over it: what lies in monochrome/ is no longer this bank's
    assert (tmp_path / "monochrome").is_dir() and ReferenceBank.from_pretrained(tmp_path).monochrome is None
    replace(both, monochrome=replace(made, encoder_sha256="1" * 64)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"monochrome: made with encoder 1111"):
        ReferenceBank.from_pretrained(tmp_path)


def test_monochrome_references_are_the_same_pictures_in_grey():
    spec, image = ViewSpec(32, 1), pictures(1, 6)[0]
    noisy = degraded(("noise",), image, (1,))
    with making_views(spec, 0, monochrome=True) as views_of:
        clean, damaged = views_of([Damage(image), Damage(image, ("noise",), (1,))])
    np.testing.assert_array_equal(clean, make_views(grey(image), spec))
    np.testing.assert_array_equal(damaged, make_views(grey(noisy), spec))
