"""Scans of black-and-white prints are known, in grey and in tones; pictures in colour aren't taken for them."""

import numpy as np
import pytest
from skimage import data

from fdi_lib.core.degrade import degrade
from fdi_lib.core.monochrome import grey, is_monochrome, toned
from fdi_lib.core.views import ViewSpec, make_views

COLOUR = {name: getattr(data, name)()[..., :3] for name in ("astronaut", "chelsea", "coffee", "rocket")}


def seen(image: np.ndarray) -> bool:
    return is_monochrome(make_views(image, ViewSpec(96, 1))[0])


@pytest.mark.parametrize("name", COLOUR)
def test_grey_and_toned_copies_are_told_from_the_picture_in_colour(name):
    image, rng = COLOUR[name], np.random.default_rng(0)
    assert not seen(image)
    assert seen(grey(image)) and all(seen(toned(image, rng)) for _ in range(20))


@pytest.mark.parametrize("damage", ["haze", "low_light", "fade", "jpeg"])
def test_damage_makes_no_picture_in_colour_monochrome(damage):
    rng = np.random.default_rng(1)
    for image in (COLOUR["astronaut"], COLOUR["chelsea"], COLOUR["coffee"]):
        damaged = degrade(damage, image[:384, :384].astype(np.float32) / 255, rng, 0.5)
        assert not seen(np.rint(255 * damaged.clip(0, 1)).astype(np.uint8))


def test_a_dark_or_faint_print_stays_monochrome():
    sepia = toned(COLOUR["astronaut"], np.random.default_rng(2))
    assert seen((sepia * 0.15).astype(np.uint8)) and seen((160 + sepia * 0.2).astype(np.uint8))


def test_flat_and_tiny_pictures_are_monochrome():
    assert is_monochrome(np.full((96, 96, 3), (200, 180, 150), np.uint8))
    assert is_monochrome(np.zeros((1, 1, 3), np.uint8))


def test_a_stain_on_a_grey_print_is_colour():
    stained = grey(COLOUR["astronaut"])
    stained[100:400, 100:400, 2] //= 2
    assert not seen(stained)


def test_grey_is_the_luma_and_tones_keep_its_order():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(grey(ramp), ramp)
    colour = COLOUR["coffee"]
    np.testing.assert_array_equal(grey(np.stack([colour, 255 - colour]))[1], grey(255 - colour))
    for seed in range(10):
        tone = toned(ramp, np.random.default_rng(seed))[0].astype(int)
        assert (np.diff(tone, axis=0) >= 0).all() and (tone[0] == 0).all()
        assert tone[255, 0] == 255 and tone[255, 2] <= tone[255, 1] <= 255  # yellowed paper keeps its red
