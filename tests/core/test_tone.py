"""A reduced look at the whole gives its tone to the tiles, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from fdi_lib.core.tone import whole_view, with_tone_of


@pytest.mark.parametrize("shape", [(300, 700, 3), (700, 300), (65, 64, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_view_has_the_means_of_its_cells(shape: tuple[int, ...], dtype: type) -> None:
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    view = whole_view(image, 64)
    height, width = shape[:2]
    assert max(view.shape[:2]) == 64 and view.shape[2:] == shape[2:] and view.dtype == dtype
    assert abs(view.shape[0] * width / (view.shape[1] * height) - 1) < 0.03
    assert abs(view.mean() - image.mean()) < 1


def test_cells_are_of_whole_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 256, 3)).astype(np.uint8)
    cells = image.reshape(32, 4, 64, 4, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(whole_view(image, 64), np.rint(cells).astype(np.uint8))


def test_a_tile_gets_the_coarse_means_of_its_part_and_keeps_its_detail() -> None:
    rng = np.random.default_rng(1)
    coarse = np.kron(rng.random((8, 8, 3)), np.ones((32, 32, 1)))
    truth = (coarse + 0.1 * rng.random((256, 256, 3))).astype(np.float32)
    view = whole_view(truth, 64)
    ramp = np.linspace(-0.4, 0.4, 128, dtype=np.float32)
    part = truth[64:192, 128:].transpose(2, 0, 1)
    moved = with_tone_of(view, part + ramp + 0.2, (0.25, 0.5, 0.75, 1.0))
    before, after = ramp + 0.2 + np.zeros_like(part), moved - part
    assert np.abs(after).mean() < 0.15 * np.abs(before).mean() + 0.02
    assert np.abs(np.diff(after, axis=1)).max() < 0.03  # what was added is smooth
    np.testing.assert_allclose(with_tone_of(view, part, (0.25, 0.5, 0.75, 1.0)), part, atol=0.05)
