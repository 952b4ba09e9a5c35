"""NIQE: its fits against distributions whose parameters are known, its scores against damage of known strength."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import gennorm

from fdi_lib.core.metrics import halved
from fdi_lib.core.niqe import FEATURES, Pristine, fit, fitted, niqe, patch_features, sharp_features
from fdi_lib.core.protocol import as_float, quantise
from fdi_lib.models.pristine import load_pristine


@cache
def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image's, halved as the evaluation's are, float32 HW3."""
    pixels = getattr(skimage.data, name)()
    return np.stack([halved(pixels[..., i] / 255) for i in range(3)], axis=-1).astype(np.float32)


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    return image + np.random.default_rng(0).normal(0, sigma / 255, image.shape)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(image, (sigma, sigma, 0))


def compressed(image: np.ndarray, quality: float) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(quantise(image)).save(data, "JPEG", quality=int(quality))
    return as_float(np.asarray(Image.open(data)))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize(
    ("damage", "strengths"), [(noisy, (5, 10, 20, 40)), (blurred, (0.7, 1, 1.5, 3)), (compressed, (80, 20, 10, 5))]
)
def test_score_rises_with_damage(name: str, damage, strengths: tuple[float, ...]) -> None:
    clean, pristine = photograph(name), load_pristine()
    versions = [clean, *(damage(clean, strength) for strength in strengths)]
    scores = [niqe(as_float(quantise(np.clip(version, 0, 1))), pristine) for version in versions]
    assert all(score is not None for score in scores)
    assert scores == sorted(scores) and scores[-1] > 1.5 * scores[0] > 0  # type: ignore[operator, type-var]


def test_distance_is_mahalanobis_between_equal_covariances() -> None:
    image = photograph("astronaut")
    features, _ = patch_features(image, 32)
    mean, covariance = features.mean(0), np.cov(features, rowvar=False)
    assert len(features) == 64
    assert niqe(image, Pristine(mean, covariance, 32)) == pytest.approx(0, abs=1e-6)
    away = np.sqrt(np.diag(covariance)) * np.linspace(-1, 1, FEATURES)
    expected = np.sqrt(away @ np.linalg.inv(covariance) @ away)
    assert niqe(image, Pristine(mean + away, covariance, 32)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 4.0])
def test_fit_finds_the_shape_of_a_generalised_gaussian(shape: float) -> None:
    values = gennorm.rvs(shape, scale=0.7, size=(1, 300, 300), random_state=0)
    found, mean, left, right = fitted(values)
    assert found == pytest.approx(shape, rel=0.05)
    assert [left, right] == [pytest.approx(0.7, rel=0.05)] * 2
    assert mean == pytest.approx(0, abs=0.02)


def test_fit_finds_the_two_sides_of_an_asymmetric_one() -> None:
    rng = np.random.default_rng(0)
    sizes = np.abs(gennorm.rvs(1.5, size=90000, random_state=rng))
    left, right = 0.4, 1.0
    below = rng.uniform(size=sizes.size) < left / (left + right)  # the density is continuous: each side by its width
    values = np.where(below, -left * sizes, right * sizes).reshape(1, 300, 300)
    assert [float(v[0]) for v in fitted(values)] == [
        pytest.approx(1.5, rel=0.05),
        pytest.approx(values.mean(), abs=0.02),
        pytest.approx(left, rel=0.05),
        pytest.approx(right, rel=0.05),
    ]
    mirrored = fitted(-values)
    assert [float(mirrored[0][0]), float(mirrored[2][0])] == pytest.approx([1.5, right], rel=0.05)


def test_grey_is_scored_like_its_three_equal_channels() -> None:
    grey = as_float(quantise(photograph("astronaut")[..., 1]))
    pristine = load_pristine()
    assert niqe(grey, pristine) == pytest.approx(niqe(np.repeat(grey[..., None], 3, axis=2), pristine))


def test_small_and_flat_images_have_no_score() -> None:
    image, pristine = photograph("astronaut"), load_pristine()
    assert niqe(image[:128, :128], pristine) is not None  # four patches of 64 px
    assert niqe(image[:127, :255], pristine) is None
    assert niqe(image[:20, :20], pristine) is None
    assert niqe(np.full((256, 256, 3), 0.3), pristine) is None
    assert niqe(np.full((256, 256), 1.0), pristine) is None


def test_flat_patches_are_left_out() -> None:
    image = photograph("astronaut").copy()
    image[128:] = 1.0
    features, _ = patch_features(image, 64)
    assert 8 <= len(features) <= 12  # all of the upper half; below it, those that the window reaches at the edge
    assert np.isfinite(features).all()


def test_a_pixel_of_a_flat_patch_tells_nothing() -> None:
    image = np.zeros((64, 64))
    image[0, 0] = 1 / 255
    assert len(patch_features(image, 64)[0]) == 0


def test_model_is_fitted_to_sharp_patches_only() -> None:
    texture = np.random.default_rng(0).uniform(0.2, 0.8, (128, 192))  # equally sharp wherever it is cut
    assert len(sharp_features(texture, 64)) == 3 * 5  # of every place where a patch of 64 px starts, 32 px apart
    texture[:, 64:] = 0.5 + 0.3 * (texture[:, 64:] - 0.5)
    assert len(sharp_features(texture, 64)) == 3  # those wholly in the sharp third
    assert sharp_features(texture, 64).shape[1] == FEATURES
    assert len(sharp_features(np.ones((64, 64)), 64)) == 0


def test_fit_is_the_patches_mean_and_covariance() -> None:
    parts = [patch_features(photograph(name), 32)[0] for name in ("astronaut", "coffee")]
    made = fit(parts, 32)
    together = np.concatenate(parts)
    assert made.patch_px == 32
    np.testing.assert_allclose(made.mean_F, together.mean(0))
    np.testing.assert_allclose(made.covariance_FF, np.cov(together.T))


def test_fit_refuses_too_few_patches() -> None:
    features = patch_features(photograph("astronaut"), 32)[0]
    for given in (features[:36], np.repeat(features[:20], 3, axis=0)):
        with pytest.raises(ValueError, match="do not determine"):
            fit([given], 32)


def test_second_scale_is_the_halved_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96)) / 255
    doubled = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
    coarse, fine = patch_features(doubled, 64)[0][:, 18:], patch_features(image, 32)[0][:, :18]
    assert coarse.shape == (6, 18)
    np.testing.assert_allclose(coarse, fine)
