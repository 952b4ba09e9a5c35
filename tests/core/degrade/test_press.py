import numpy as np

from fdi_lib.core.degrade.press import halftone


def test_dots_keep_the_tone_and_add_a_screen_of_the_stated_period():
    grey = np.full((120, 120, 3), 0.4, np.float32)
    out = halftone(grey, np.random.default_rng(0), 6.0, 1.0, 0.5)
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
    assert abs(out.mean() - 0.4) < 0.08
    spectrum = np.abs(np.fft.rfft2(out[..., 2] - out[..., 2].mean()))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency = np.hypot(min(row, 120 - row), column) / 120
    assert abs(1 / frequency - 6.0) < 0.5


def test_share_blends_and_phases_are_drawn():
    image = np.random.default_rng(1).random((64, 64, 3), np.float32)
    assert np.array_equal(halftone(image, np.random.default_rng(0), 5.0, 0.0, 0.7), image)
    one, two = (halftone(image, np.random.default_rng(s), 5.0, 0.8, 0.7) for s in (0, 1))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(one, halftone(image, np.random.default_rng(0), 5.0, 0.8, 0.7))
