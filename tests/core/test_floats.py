"""Integers to floats."""

from __future__ import annotations

import numpy as np
import pytest

from fdi_lib.core.floats import to_float_rgb


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_integers_fill_the_unit_interval(dtype: type, channels: int) -> None:
    every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(256, -1)
    floats = to_float_rgb(every if channels == 1 else np.stack([every] * 3, axis=2))
    assert floats.shape == (*every.shape, 3) and floats.dtype == np.float32
    even = np.linspace(0, 1, every.size).astype(np.float32).reshape(*every.shape, 1)
    np.testing.assert_allclose(floats, np.broadcast_to(even, floats.shape), rtol=1e-6)
    assert floats.min() == 0 and floats.max() == 1
