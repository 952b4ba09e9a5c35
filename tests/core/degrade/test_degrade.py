"""Every degradation keeps the shape, obeys its seed, and damages more as severity grows."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from fdi_lib.core.degrade import NAMES, degrade

CONTRACT = (
    "noise, jpeg, motion_blur, defocus, haze, rain, raindrop, snow, low_light, shadow, "
    "fade, scratch, stain, bleed_through, low_resolution"
)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return data.astronaut()[:256, 100:356].astype(np.float32) / np.float32(255)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2) + 1e-12))


def test_names_are_the_fifteen_in_order() -> None:
    assert ", ".join(NAMES) == CONTRACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(32, 32), (33, 57), (96, 96), (150, 230)])
@pytest.mark.parametrize("severity", [0.0, 1.0])
def test_any_size_gives_a_valid_image(
    name: str, shape: tuple[int, int], severity: float, photograph: np.ndarray
) -> None:
    clean = photograph[: shape[0], : shape[1]]
    before = clean.copy()
    degraded = degrade(name, clean, np.random.default_rng(3), severity)
    assert degraded.shape == clean.shape
    assert degraded.dtype == np.float32
    assert np.isfinite(degraded).all()
    assert degraded.min() >= 0
    assert degraded.max() <= 1
    assert np.array_equal(clean, before), "the input was changed"


@pytest.mark.parametrize("name", NAMES)
def test_black_and_white_images_are_handled(name: str) -> None:
    for value in (0.0, 1.0):
        flat = np.full((64, 48, 3), value, np.float32)
        assert np.isfinite(degrade(name, flat, np.random.default_rng(0), 0.5)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: str, photograph: np.ndarray) -> None:
    clean = photograph[:96, :96]
    one = degrade(name, clean, np.random.default_rng(5))
    assert np.array_equal(one, degrade(name, clean, np.random.default_rng(5)))
    assert not np.array_equal(one, degrade(name, clean, np.random.default_rng(6)))


@pytest.mark.parametrize("name", NAMES)
def test_severity_damages_more(name: str, photograph: np.ndarray) -> None:
    mean = [
        np.mean([_psnr(photograph, degrade(name, photograph, np.random.default_rng(s), severity)) for s in range(4)])
        for severity in (0.0, 1.0)
    ]
    assert mean[0] > mean[1] + 0.5


@pytest.mark.parametrize("name", NAMES)
def test_grey_stays_grey_where_the_damage_has_no_colour(name: str, photograph: np.ndarray) -> None:
    grey = np.repeat(photograph[:96, :96].mean(axis=2, keepdims=True), 3, axis=2)
    degraded = degrade(name, grey, np.random.default_rng(1), 0.5)
    colour = float(np.abs(degraded - degraded.mean(axis=2, keepdims=True)).max())
    if name in {"motion_blur", "defocus", "rain", "snow", "jpeg"}:
        assert colour < 0.01
    if name in {"fade", "stain"}:
        assert colour > 0.02


def test_a_wrong_request_is_refused() -> None:
    image, rng = np.zeros((40, 40, 3), np.float32), np.random.default_rng(0)
    with pytest.raises(ValueError, match="known are noise, jpeg"):
        degrade("blur", image, rng)
    with pytest.raises(ValueError, match="severity"):
        degrade("noise", image, rng, 1.5)
    with pytest.raises(ValueError, match=r"\(40, 40\)"):
        degrade("noise", image[..., 0], rng)
    with pytest.raises(ValueError, match="at least 32"):
        degrade("noise", image[:20], rng)
