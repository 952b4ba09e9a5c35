"""Scenes are clean pictures of the promised form, the same for the same seed, and of every kind."""

import numpy as np
import pytest

from fdi_lib.training.encoder import resample_patches
from fdi_lib.training.scenes import clean_scene, leaves, pale, smooth


@pytest.mark.parametrize("make", [leaves, smooth, pale])
def test_made_pictures_are_pictures_and_never_come_twice(make) -> None:
    first, again, other = (make(96, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (96, 96, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05


def test_leaves_have_edges_and_smooth_pictures_none() -> None:
    edges = [np.abs(np.diff(make(96, np.random.default_rng(2)), axis=1)).max() for make in (leaves, smooth)]
    assert edges[0] > 0.2 > edges[1]


def test_pale_pictures_lack_darkness() -> None:
    darkest = np.array([[make(96, np.random.default_rng(seed)).min() for seed in range(20)] for make in (smooth, pale)])
    assert darkest[1].min() > 0.05 and darkest[1].mean() > darkest[0].mean() + 0.15


def test_scenes_come_with_and_without_listed_pictures() -> None:
    tile = np.full((256, 256, 3), (10, 120, 240), np.uint8)
    for scenes in ({}, {"photo": [tile], "garment": [tile[:192, :192]]}):
        sizes = set()
        for seed in range(40):
            scene = clean_scene(scenes, np.random.default_rng(seed))
            assert scene.shape[0] == scene.shape[1] and scene.shape[2] == 3 and scene.dtype == np.float32
            assert scene.min() >= 0 and scene.max() <= 1
            sizes.add(len(scene))
        assert {96, 256} < sizes


def test_resampled_views_hold_patches_of_the_view_in_the_same_places_of_both() -> None:
    clean = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    pair = np.stack([clean, 255 - clean])
    made = resample_patches(pair, 8, np.random.default_rng(1))
    np.testing.assert_array_equal(made[0], 255 - made[1])
    known = {clean[y : y + 8, x : x + 8].tobytes() for y in range(0, 96, 8) for x in range(0, 96, 8)}
    found = [made[0, y : y + 8, x : x + 8].tobytes() for y in range(0, 96, 8) for x in range(0, 96, 8)]
    assert set(found) < known and 70 < len(set(found)) < 120
