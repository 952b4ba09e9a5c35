"""Noise is a function of key and coordinates only."""

import numpy as np

from fdi_lib.core.noise import noise_field, noise_key


def test_a_window_is_the_same_however_it_is_cut():
    key = noise_key(0, "ab" * 32)
    whole = noise_field(key, 0, 0, 200, 170, 3)
    np.testing.assert_array_equal(noise_field(key, 50, 30, 100, 90, 3), whole[:, 50:150, 30:120])


def test_it_is_standard_normal_and_keys_differ():
    a = noise_field(noise_key(0, "a"), 0, 0, 256, 256, 3)
    assert abs(a.mean()) < 0.01 and abs(a.std() - 1) < 0.01
    for other in (noise_key(1, "a"), noise_key(0, "b"), noise_key(0, "a", page=1)):
        b = noise_field(other, 0, 0, 256, 256, 3)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01
