"""Views: sizes, block grid, small and grey and 16-bit images."""

import numpy as np
import pytest
from skimage import data

from fdi_lib.core.monochrome import grey, toned
from fdi_lib.core.views import ViewSpec, make_views, to_rgb8


@pytest.mark.parametrize("shape", [(300, 401, 3), (96, 96), (40, 500, 3), (5, 5), (2000, 97, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_image_gives_the_stated_views(shape, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    views = make_views(image, ViewSpec(96, 4))
    assert views.shape == (5, 96, 96, 3) and views.dtype == np.uint8


def test_crops_are_native_pixels_on_the_block_grid():
    y, x = np.mgrid[0:400, 0:640]
    image = np.stack([y % 256, x % 256, (y // 256) + 2 * (x // 256)], axis=2).astype(np.uint8)
    for crop in make_views(image, ViewSpec(96, 4))[1:]:
        low_y, low_x, high = (int(v) for v in crop[0, 0])
        top, left = low_y + 256 * (high % 2), low_x + 256 * (high // 2)
        assert top % 8 == 0 and left % 8 == 0
        np.testing.assert_array_equal(crop, image[top : top + 96, left : left + 96])


def test_sixteen_bits_round_to_eight():
    np.testing.assert_array_equal(to_rgb8(np.array([[0, 128, 129, 65535]], np.uint16))[0, :, 0], [0, 0, 1, 255])


def test_crops_must_fill_a_square_grid():
    with pytest.raises(ValueError, match="square"):
        ViewSpec(96, 5)


def test_a_monochrome_picture_is_looked_at_in_grey_before_its_detail():
    spec = ViewSpec(96, 4, detail_gain=3.0)
    image = data.astronaut()
    sepia = toned(image, np.random.default_rng(0))
    for same in (sepia, sepia.astype(np.uint16) * 257):
        views, of_grey = make_views(same, spec), make_views(grey(sepia), spec)
        np.testing.assert_array_equal(views[1:], of_grey[1:])
        np.testing.assert_allclose(views[0].astype(int), of_grey[0], atol=1)  # reduced first, then made grey
        assert np.ptp(views, axis=-1).max() == 0
    as_is = make_views(sepia, spec, as_is=True)
    assert np.ptp(as_is, axis=-1).max() > 20
    np.testing.assert_array_equal(make_views(image, spec), make_views(image, spec, as_is=True))
