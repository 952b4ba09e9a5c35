"""The physical models do what their docstrings say, in their own units."""

from __future__ import annotations

import numpy as np
import pytest

from fdi_lib.core.degrade import carrier, codec, light, optics, paper, sensor, weather
from fdi_lib.core.degrade.fields import plane, smooth_field, splat, strokes
from fdi_lib.core.degrade.verso import verso_ink


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


GREY = np.full((128, 128, 3), 0.5, np.float32)


def test_noise_has_the_stated_sigma_and_grows_with_the_signal(rng: np.random.Generator) -> None:
    assert (sensor.noise(GREY, rng, 25 / 255, 0.2) - GREY).std() == pytest.approx(25 / 255, rel=0.02)
    dark, bright = (sensor.noise(GREY * k, rng, 0.1, 0.5) - GREY * k for k in (0.2, 1.8))
    assert bright.std() > 1.3 * dark.std()


def test_low_light_keeps_the_exposure(rng: np.random.Generator) -> None:
    assert sensor.low_light(GREY, rng, 2.0, 0.4, 0.01, 0.0).mean() == pytest.approx(0.1, abs=0.002)


def test_jpeg_has_its_grid_at_the_corner_and_obeys_quality(rng: np.random.Generator) -> None:
    image = rng.random((64, 64, 3), dtype=np.float32)
    coarse = codec.jpeg(image, 5, True)
    step = np.abs(np.diff(coarse.mean(axis=2), axis=1)).mean(axis=0)
    assert step[7::8].mean() > 1.2 * step[3::8].mean()
    assert np.abs(codec.jpeg(image, 90, False) - image).mean() < np.abs(coarse - image).mean()


@pytest.mark.parametrize("length", [1.0, 12.0, 40.0])
def test_shake_kernels_are_centred_and_sum_to_one(rng: np.random.Generator, length: float) -> None:
    kernel = optics.camera_shake_kernel(rng, length, 2.0)
    half = kernel.shape[0] // 2
    place = np.arange(-half, half + 1)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert abs((kernel.sum(axis=0) * place).sum()) < 0.05
    assert abs((kernel.sum(axis=1) * place).sum()) < 0.05


@pytest.mark.parametrize("gaussian", [True, False])
def test_defocus_spreads_a_point_by_its_radius(gaussian: bool) -> None:
    image = np.zeros((65, 65, 3), np.float32)
    image[32, 32] = 1
    spot = optics.defocus(image, 6.0, gaussian)[..., 0]
    place = np.arange(65) - 32
    assert spot.sum() == pytest.approx(1, abs=1e-3)
    assert np.sqrt((spot.sum(axis=0) * place**2).sum()) == pytest.approx(3.0, abs=0.25)


def test_blur_leaves_a_flat_image_alone_up_to_its_edges(rng: np.random.Generator) -> None:
    kernel = optics.camera_shake_kernel(rng, 30.0, 2.0)
    assert np.abs(optics.motion_blur(GREY, kernel) - GREY).max() < 1e-5


def test_haze_transmits_no_less_than_its_thickness_says(rng: np.random.Generator) -> None:
    black = weather.haze(GREY * 0, rng, 1.2, np.ones(3), 0.5)
    assert (1 - black).min() >= np.exp(-1.2) - 1e-5
    assert (1 - black).max() <= np.exp(-0.6) + 1e-5


def test_rain_and_snow_brighten_a_dark_scene(rng: np.random.Generator) -> None:
    for fall in (weather.rain, weather.snow):
        few, many = (fall(GREY * 0.2, rng, coverage, 0.0, 0.0).mean() for coverage in (0.03, 0.3))
        assert 0.1 < few < many


def test_drops_cover_about_the_stated_share_and_show_the_scene(rng: np.random.Generator) -> None:
    ramp = np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[:, None], 256, axis=1)[..., None].repeat(3, axis=2)
    share = np.mean(
        [(np.abs(weather.raindrop(ramp, rng, 0.1, (6.0, 14.0), 2.0) - ramp) > 1e-4).mean() for _ in range(8)]
    )
    assert 0.05 < share < 0.2


def test_shadow_only_darkens_and_covers_its_share(rng: np.random.Generator) -> None:
    ambient = np.array([0.1, 0.1, 0.12])
    dark = light.shadow(GREY, rng, 0.5, ambient, 2.0, 80.0, 0.3)
    assert (dark <= GREY + 1e-6).all()
    assert dark.min() == pytest.approx(0.5 * 0.1 ** (1 / 2.2), abs=0.01)
    assert (dark[..., 0] < 0.3).mean() == pytest.approx(0.5, abs=0.06)


def test_fade_scales_density(rng: np.random.Generator) -> None:
    kept = np.array([0.5, 0.5, 0.5])
    assert np.allclose(paper.fade(GREY, rng, kept, 0.0, 0.0, 0.0), 0.5**0.5, atol=1e-5)
    yellowed = paper.fade(GREY, rng, kept, 0.0, 0.2, 0.0)
    assert yellowed[..., 2].mean() < yellowed[..., 1].mean() < yellowed[..., 0].mean()


def test_stain_and_verso_only_darken(rng: np.random.Generator) -> None:
    assert (paper.stain(GREY, rng, 0.8, 0.5, 0.05) <= GREY + 1e-6).all()
    for kind in ("print", "script", "picture"):
        ink = verso_ink(GREY, rng, kind)
        assert ink.shape == (128, 128)
        assert 0.03 < ink.mean() < 0.6
        assert (paper.bleed_through(GREY, rng, 0.8, 1.0, kind) <= GREY + 1e-6).all()
    with pytest.raises(ValueError, match="print, script, picture"):
        verso_ink(GREY, rng, "photo")


def test_scratches_cover_about_the_stated_share(rng: np.random.Generator) -> None:
    share = np.mean([(np.abs(carrier.scratch(GREY, rng, 0.1, 0.5, 0.3) - GREY) > 0.15).mean() for _ in range(10)])
    assert 0.05 < share < 0.16


def test_low_resolution_loses_detail_but_no_place(rng: np.random.Generator) -> None:
    ramp = np.linspace(0, 1, 101, dtype=np.float32)[None, :, None].repeat(80, axis=0).repeat(3, axis=2)
    assert np.abs(codec.low_resolution(ramp, rng, 2.7, 0.4, 0.0) - ramp)[:, 8:-8].max() < 0.01
    fine = rng.random((96, 96, 3), dtype=np.float32)
    assert codec.low_resolution(fine, rng, 4.0, 0.4, 0.0).std() < 0.5 * fine.std()


def test_fields_fill_their_range_and_splat_keeps_weight(rng: np.random.Generator) -> None:
    field = smooth_field((200, 300), rng, 40.0)
    assert 0 <= field.min() < 0.35
    assert 0.65 < field.max() <= 1
    assert plane((50, 70), rng).min() == 0
    y, x = rng.uniform(1, 30, 50), rng.uniform(1, 40, 50)
    assert splat((32, 42), y, x, 2.0).sum() == pytest.approx(100, rel=1e-5)
    assert splat((32, 42), y - 100, x, 2.0).sum() == 0


def test_a_stroke_covers_its_area(rng: np.random.Generator) -> None:
    drawn = np.mean([strokes((400, 400), rng, 1, (40.0, 40.0), (2.0, 2.0), 0.0).sum() for _ in range(20)])
    assert drawn == pytest.approx(80, rel=0.1)
    assert not strokes((40, 40), rng, 0, (4.0, 4.0), (2.0, 2.0), 0.0).any()
