"""Scores against values that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fdi_lib.core import metrics


def test_psnr_of_a_constant_error() -> None:
    grey = np.full((16, 16, 3), 0.5, np.float32)
    assert metrics.psnr(grey, grey + 0.1) == pytest.approx(20.0, abs=1e-4)


def test_psnr_of_identical_images_is_finite() -> None:
    image = np.random.default_rng(0).random((8, 8, 3))
    assert metrics.psnr(image, image) == metrics.PSNR_CAP_DB


def test_ssim_is_one_for_identical_images_and_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((32, 32, 3)).astype(np.float32)
    scores = [metrics.ssim(image, np.clip(image + rng.normal(0, s, image.shape), 0, 1)) for s in (0.0, 0.05, 0.3)]
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1] > scores[2]


def test_ssim_takes_grey_images() -> None:
    image = np.random.default_rng(0).random((32, 32))
    assert metrics.ssim(image, 1 - image) < 0


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [([2, 3], [0, 1], 1.0), ([0, 1], [2, 3], 0.0), ([1, 1], [1, 1], 0.5), ([1, 3], [0, 2], 0.75)],
)
def test_auroc(positive: list[float], negative: list[float], expected: float) -> None:
    assert metrics.auroc(positive, negative) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [(["a", "b"], ["b", "a"], 1.0), (["a", "b"], ["a"], 2 / 3), (["a"], ["b"], 0.0), (["a"], [], 0.0), ([], [], 1.0)],
)
def test_set_f1(truth: list[str], found: list[str], expected: float) -> None:
    assert metrics.set_f1(truth, found) == pytest.approx(expected)


def test_bootstrap_resamples_pictures_not_tiles() -> None:
    values = [1.0] * 50 + [0.0] * 50
    by_picture = metrics.bootstrap_by_picture(values, ["a"] * 50 + ["b"] * 50, seed=0)
    by_tile = metrics.bootstrap_by_picture(values, [str(i) for i in range(100)], seed=0)
    assert by_picture == (0.0, 1.0)
    assert 0.35 < by_tile[0] < 0.5 < by_tile[1] < 0.65


def test_ms_ssim_of_one_scale_is_ssim() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((21, 17, 3))
    other = np.clip(image + rng.normal(0, 0.1, image.shape), 0, 1)
    assert metrics.ms_ssim(image, other) == pytest.approx(metrics.ssim(image, other), abs=1e-9)


def test_ms_ssim_of_two_scales_is_their_weighted_product() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((32, 32)) * 0.2 + 0.4
    other = np.clip(image + rng.normal(0, 0.05, image.shape), 0, 1)
    halves = [x.reshape(16, 2, 16, 2).mean((1, 3)) for x in (image, other)]
    # At equal means the luminance term is 1 within 1e-3, so the fine scale's own SSIM stands for its structure.
    fine, coarse = metrics.ssim(image, other), metrics.ssim(*halves)
    expected = fine ** (0.0448 / 0.3304) * coarse ** (0.2856 / 0.3304)
    assert metrics.ms_ssim(image, other) == pytest.approx(expected, abs=2e-3)


def test_ms_ssim_is_one_for_identical_images_symmetric_and_falls_with_damage() -> None:
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.random((180, 200, 3)), (2, 2, 0))
    image = (image - image.min()) / np.ptp(image)
    scores = [metrics.ms_ssim(image, np.clip(image + rng.normal(0, s, image.shape), 0, 1)) for s in (0.0, 0.05, 0.3)]
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1] > scores[2] > 0
    assert metrics.ms_ssim(image, 1 - image) == 0
    assert metrics.ms_ssim(image, image**2) == pytest.approx(metrics.ms_ssim(image**2, image))


def test_ms_ssim_minds_coarse_damage_more_than_fine() -> None:
    """Wang et al. (2003): the middle scales weigh most; SSIM sees the finest only."""
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.random((192, 192)), 6)
    image = (image - image.min()) / np.ptp(image)
    fine = image + 0.05 * rng.choice([-1.0, 1.0], image.shape)
    assert metrics.ssim(image, fine) < metrics.ms_ssim(image, fine) - 0.1


def test_ms_ssim_needs_a_window() -> None:
    with pytest.raises(ValueError, match="11 px"):
        metrics.ms_ssim(np.zeros((10, 40)), np.zeros((10, 40)))
