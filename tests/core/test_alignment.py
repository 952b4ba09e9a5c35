"""No synthetic degradation is taken for a misalignment; shifts of two pixels are found, through most of the damage."""

from collections import defaultdict

import numpy as np
import pytest
import skimage.data

from fdi_lib.core.alignment import align
from fdi_lib.core.degrade import NAMES, degrade

SIDE, MARGIN = 224, 8


def picture(name: str, side: int = SIDE + 2 * MARGIN) -> np.ndarray:
    pixels = getattr(skimage.data, name)()[..., :3]
    y, x = ((size - side) // 2 for size in pixels.shape[:2])
    return pixels[y : y + side, x : x + side].astype(np.float32) / 255


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The middle of an image whose content has moved."""
    y, x = MARGIN - down, MARGIN - right
    return image[y : y + SIDE, x : x + SIDE]


@pytest.fixture(scope="module")
def damaged() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Every degradation, mild and heavy, on two photographs."""
    pairs = []
    for k, name in enumerate(NAMES):
        for i, (photo, severity) in enumerate((p, s) for p in ("astronaut", "coffee") for s in (0.3, 0.9)):
            clean = picture(photo)
            out = degrade(name, clean, np.random.default_rng([5, k, i]), severity)
            pairs.append((name, np.rint(out * 255).astype(np.float32) / 255, clean))
    return pairs


def test_no_degradation_is_called_misaligned(damaged):
    called = [name for name, out, clean in damaged if align(moved(out, 0, 0), moved(clean, 0, 0)).misaligned]
    assert called == []


def test_shifts_are_found_through_the_damage(damaged):
    found = defaultdict(list)
    for i, (name, out, clean) in enumerate(damaged):
        down, right = ((2, 0), (-1, 2), (0, -3), (4, 4))[i % 4]
        result = align(moved(out, down, right), moved(clean, 0, 0))
        if result.misaligned:
            assert result.shift_px == pytest.approx((down, right), abs=1.3), name
        found[name].append(result.misaligned)
    rate = {name: np.mean(values) for name, values in found.items()}
    print({name: float(value) for name, value in rate.items()})
    lopsided = rate.pop("motion_blur")  # a blur hides shifts shorter than itself: "can't be told" is right, too
    assert lopsided >= 0.25
    assert min(rate.values()) >= 0.75 and np.mean(list(rate.values())) >= 0.95


def test_a_shift_is_measured_below_a_pixel():
    clean = picture("astronaut")
    fine = (moved(clean, 1, 0) + moved(clean, 0, 0)) / 2
    result = align(fine, moved(clean, 0, 0))
    assert not result.misaligned
    assert result.shift_px == pytest.approx((0.5, 0), abs=0.11)


def test_other_pictures_and_blank_ones():
    clean = picture("astronaut", SIDE)
    assert align(picture("coffee", SIDE), clean).unrelated
    blank = np.full_like(clean, 0.5)
    result = align(blank, blank)
    assert (result.shift_px, result.misaligned, result.unrelated) == (None, False, False)


def test_a_large_picture_that_is_turned_is_misaligned():
    from skimage.transform import rotate

    clean = skimage.data.astronaut().astype(np.float32) / 255
    assert align(rotate(clean, 2).astype(np.float32), clean).misaligned
    assert not align(clean**1.4, clean).misaligned


def test_noise_over_a_flat_picture_is_not_another_picture():
    flat = np.full((SIDE, SIDE, 3), 0.5, np.float32)
    flat[::16] += 0.02
    noisy = flat + np.random.default_rng(0).normal(0, 0.15, flat.shape).astype(np.float32)
    result = align(noisy, flat)
    assert not result.unrelated and not result.misaligned


def test_little_is_said_of_little_pictures():
    clean = picture("astronaut", 120)
    assert align(clean[:96, 8:104], clean[:96, :96]).misaligned
    assert not align(clean[:96, 2:98], clean[:96, :96]).misaligned
    assert not align(picture("coffee", 96), clean[:96, :96]).unrelated
