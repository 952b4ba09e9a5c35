"""Samples are a function of seed and index; both sides are cut alike; splits are stable and by group."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.pairs import PairRef, Side
from fdi_lib.training.pairs import MIN_PAIRS, StoredPairs, SyntheticPairs, gather, split
from tests.storage.pictures import bare, picture

LOCAL = StorageSettings()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pairs; the degraded picture is the clean one, darker by half."""
    for side in ("degraded", "clean"):
        (tmp_path / side).mkdir()
        for i in range(10):
            pixels = picture(16, 3, 48 + i, 64, seed=i)
            (tmp_path / side / f"{i}.png").write_bytes(bare("png", pixels // 2 if side == "degraded" else pixels))
    return tmp_path


@pytest.fixture
def source(folder: Path) -> StoredPairs:
    return StoredPairs(gather(str(folder), "pairs", LOCAL)[0], str(folder), LOCAL)


def tiles(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)


def test_both_sides_are_cut_flipped_and_turned_alike(source):
    for index in range(8):
        degraded, clean = source.crop(index, 32, seed=1)
        assert degraded.shape == clean.shape == (32, 32, 3)
        assert degraded.dtype == clean.dtype == np.float32 and clean.min() >= 0 and clean.max() <= 1
        np.testing.assert_allclose(degraded, clean / 2, atol=2 / 65535)


def test_a_sample_depends_on_seed_and_index_alone(source):
    again = pickle.loads(pickle.dumps(source))
    again.crop(3, 32, 1)
    np.testing.assert_array_equal(source.crop(25, 32, 1)[0], again.crop(25, 32, 1)[0])
    assert not np.array_equal(source.crop(25, 32, 1)[0], source.crop(25, 32, 2)[0])
    assert not np.array_equal(source.crop(5, 32, 1)[0], source.crop(15, 32, 1)[0])


def test_every_epoch_draws_each_pair_once_in_another_order(source, monkeypatch):
    drawn: list[str] = []
    pictures = source._pictures
    monkeypatch.setattr(source, "_pictures", lambda ref: drawn.append(ref.name) or pictures(ref))
    for index in range(20):
        source.crop(index, 32, 0)
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == [str(i) for i in range(10)]
    assert drawn[:10] != drawn[10:]


def test_decoded_pictures_are_kept_up_to_a_limit(source, folder):
    one = 2 * 57 * 64 * 3 * 2 / 2**20
    little = StoredPairs(source.refs, str(folder), LOCAL, cache_mib=2.5 * one)
    for index in range(10):
        little.crop(index, 32, 0)
    assert 1 <= len(little._cache._pairs) <= 3
    for i in range(10):
        (folder / "clean" / f"{i}.png").unlink()
    last = next(reversed(little._cache._pairs))
    little._pictures(next(ref for ref in little.refs if ref.name == last))  # no file is needed


def test_what_cannot_be_used_is_named(folder):
    refs, _ = gather(str(folder), "pairs", LOCAL)
    (folder / "clean" / "3.png").write_bytes(b"no picture")
    (folder / "clean" / "4.png").write_bytes(bare("png", picture(8, 3, 40, 60)))
    for name, crop_px, said in (("3", 32, "clean picture can't"), ("4", 32, "sizes differ"), ("5", 60, "smaller than")):
        source = StoredPairs([ref for ref in refs if ref.name == name], str(folder), LOCAL)
        with pytest.raises(ManifestError, match=f"{name}: .*{said}"):
            source.crop(0, crop_px, 0)


def test_too_few_pairs_are_refused_with_what_was_found(folder):
    for i in range(MIN_PAIRS - 4, 10):
        (folder / "clean" / f"{i}.png").unlink()
    with pytest.raises(ManifestError, match=r"4 pairs to learn from.*6 without.*4: the clean picture is missing"):
        gather(str(folder), "pairs", LOCAL)


def test_synthetic_pairs_are_a_function_of_seed_and_index():
    source, lazy = SyntheticPairs(tiles(), "noise"), SyntheticPairs(partial(tiles, 0), "noise")
    lazy.crop(0, 48, 0)
    assert len(pickle.dumps(lazy)) < 1000 and len(lazy) == 4
    for a, b in zip(source.crop(5, 48, 0), pickle.loads(pickle.dumps(lazy)).crop(5, 48, 0), strict=True):
        np.testing.assert_array_equal(a, b)
    degraded, clean = source.crop(5, 48, 0)
    assert degraded.shape == clean.shape == (48, 48, 3) and degraded.dtype == np.float32
    assert not np.array_equal(degraded, source.crop(5, 48, 1)[0])
    np.testing.assert_array_equal(degraded, np.rint(degraded * 255).astype(np.float32) / 255)


def refs(count: int) -> list[PairRef]:
    return [PairRef(f"p{i}", Side("d"), Side("c"), f"g{i // 2}") for i in range(count)]


def test_a_split_is_stable_and_never_parts_a_group():
    train, validation = split(refs(400), 0.2, seed=3)
    assert {r.group for r in train}.isdisjoint(r.group for r in validation)
    assert len(train) + len(validation) == 400 and 40 <= len(validation) <= 120
    more = split(refs(500), 0.2, seed=3)
    assert set(validation) <= set(more[1]) and set(train) <= set(more[0])
    assert split(refs(400), 0.2, seed=4)[1] != validation


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_no_side_of_a_split_is_empty(fraction):
    train, validation = split(refs(20), fraction, 0)
    assert train and validation


@pytest.mark.parametrize("most", [1, 4, 10, 99])
def test_whole_pictures_are_spread_over_all_pairs(source, most):
    found = dict(source.whole(most))
    assert len(found) == min(most, 10) and set(found) <= {ref.name for ref in source.refs}
    for degraded, clean in found.values():
        assert degraded.shape == clean.shape
        np.testing.assert_array_equal(degraded, clean // 2)


def test_pairs_of_one_picture_cannot_be_parted():
    with pytest.raises(ManifestError, match="shows one picture"):
        split([PairRef(f"p{i}", Side("d"), Side("c"), "one") for i in range(8)], 0.2, 0)
