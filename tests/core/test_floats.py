"""Integers to floats and back."""

from __future__ import annotations

import numpy as np
import pytest

from fdi_lib.core.floats import from_float_rgb, to_float_rgb


def test_grey_comes_back_grey_and_nonsense_is_refused() -> None:
    tinted = np.zeros((4, 4, 3), np.float32)
    tinted[..., 1] = 1.0
    assert from_float_rgb(tinted, np.zeros((4, 4), np.uint8)).tolist() == [[150] * 4] * 4  # 0.587 x 255, Rec. 601
    assert from_float_rgb(tinted * 7 - 3, np.zeros((4, 4, 3), np.uint8))[0, 0].tolist() == [0, 255, 0]  # clipped
    tinted[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="not numbers"):
        from_float_rgb(tinted, np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_survives_the_way_through_floats(dtype: type, channels: int) -> None:
    top = np.iinfo(dtype).max
    every = np.arange(top + 1, dtype=dtype).reshape(256, -1)
    pixels = every if channels == 1 else np.stack([every, every[::-1], every.T.reshape(every.shape)], axis=2)
    floats = to_float_rgb(pixels)
    assert floats.shape == (*every.shape, 3) and floats.dtype == np.float32
    assert floats.min() == 0.0 and floats.max() == 1.0
    back = from_float_rgb(floats, pixels)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, pixels)
