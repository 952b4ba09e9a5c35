"""Tiles cover, blend to the identity, and mirror small images."""

from itertools import pairwise

import numpy as np
import pytest

from fdi_lib.core.tiling import blend_window, cut, row_strips, tile_starts


@pytest.mark.parametrize("side", [1, 63, 64, 65, 100, 128, 1000])
@pytest.mark.parametrize("overlap", [0, 16, 32])
def test_tiles_cover_with_the_overlap_asked_for(side, overlap):
    starts = tile_starts(side, 64, overlap)
    if side <= 64:
        assert starts == [0]
        return
    assert starts[0] == 0 and starts[-1] == side - 64
    assert all(64 - (b - a) >= overlap for a, b in pairwise(starts))


def test_blending_unchanged_tiles_gives_the_image_back():
    image = np.random.default_rng(0).random((150, 201, 3))
    window = blend_window(64, 16)
    total, weight = np.zeros_like(image), np.zeros(image.shape[:2])
    for y in tile_starts(150, 64, 16):
        for x in tile_starts(201, 64, 16):
            total[y : y + 64, x : x + 64] += cut(image, y, x, 64) * window[..., None]
            weight[y : y + 64, x : x + 64] += window
    np.testing.assert_allclose(total / weight[..., None], image, atol=1e-6)


def test_small_image_is_mirrored_up_to_the_tile():
    image = np.arange(12.0).reshape(2, 2, 3)
    tile = cut(image, 0, 0, 4)
    assert tile.shape == (4, 4, 3)
    np.testing.assert_array_equal(tile[:2, :2], image)
    np.testing.assert_array_equal(tile[2:, :2], image[::-1])


def test_grey_is_mirrored_too():
    image = np.arange(6).reshape(2, 3)
    assert cut(image, 0, 0, 4).tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]]


def test_strips_cover_an_image_once():
    image = np.arange(1300).reshape(650, 2)
    np.testing.assert_array_equal(np.concatenate([image[rows] for rows in row_strips(image)]), image)
