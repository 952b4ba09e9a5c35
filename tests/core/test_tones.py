import numpy as np
import pytest

from fdi_lib.core.tones import tone_chart
from fdi_lib.core.views import ViewSpec, make_views


def patches_of(chart: np.ndarray, patch_px: int) -> np.ndarray:
    """Patches in the order of reading, their cells: P,2,2,3 values in [0, 1]."""
    side = len(chart) // patch_px
    cells = chart.reshape(side, patch_px, side, patch_px, 3).swapaxes(1, 2).reshape(-1, patch_px, patch_px, 3)
    assert (cells[:, ::2, ::2].repeat(2, 1).repeat(2, 2) == cells).all()
    return cells[:, :: patch_px // 2, :: patch_px // 2] / 255


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def view(rng) -> np.ndarray:
    return rng.integers(0, 256, (32, 32, 3), np.uint8)


def test_patches_are_quantiles_from_least_to_greatest(view):
    patches = patches_of(tone_chart(view, 8), 8)
    assert (np.diff(patches, axis=0) >= 0).all()
    np.testing.assert_allclose(patches[0, 0, 0], view.min((0, 1)) / 255, atol=0.003)  # red, green, blue
    np.testing.assert_allclose(patches[-1, 0, 0], view.max((0, 1)) / 255, atol=0.003)
    darkest = np.sort(view.min(2).ravel()) / 255
    np.testing.assert_allclose(patches[:, 0, 1, 0], darkest[np.rint(np.linspace(0, 1023, 16)).astype(int)], atol=0.003)


def test_values_alone_count_for_what_is_measured_at_a_pixel(view, rng):
    shuffled = rng.permutation(view.reshape(-1, 3)).reshape(view.shape)
    here, there = (patches_of(tone_chart(v, 8), 8) for v in (view, shuffled))
    np.testing.assert_array_equal(here[:, 0, 0], there[:, 0, 0])  # red, green, blue
    np.testing.assert_array_equal(here[:, 0, 1, :2], there[:, 0, 1, :2])  # darkest and brightest channel


def test_a_flat_picture_has_no_contrast_and_no_chroma():
    patches = patches_of(tone_chart(np.full((32, 32, 3), 128, np.uint8), 8), 8)
    np.testing.assert_allclose(patches[:, 1, 0, :2], 0)
    np.testing.assert_allclose(patches[:, 1, 1], 0, atol=0.01)


def test_haze_lifts_the_dark_channel_and_lowers_contrast(view):
    hazed = np.rint(0.5 * view + 0.5 * 230).astype(np.uint8)
    clear, veiled = (patches_of(tone_chart(v, 8), 8).mean(0) for v in (view, hazed))
    assert veiled[0, 1, 2] > clear[0, 1, 2] + 0.3
    assert (veiled[1, 1] < clear[1, 1]).all()


def test_the_chart_is_the_second_view(rng):
    image = rng.integers(0, 256, (80, 60, 3), np.uint8)
    spec = ViewSpec(32, 4, 3.0, tone_patch_px=8)
    views = make_views(image, spec)
    assert views.shape == (spec.count, 32, 32, 3) and spec.wholes == 2
    np.testing.assert_array_equal(views[1], tone_chart(views[0], 8))
    np.testing.assert_array_equal(np.delete(views, 1, axis=0), make_views(image, ViewSpec(32, 4, 3.0)))
