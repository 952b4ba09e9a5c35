"""Gates pass what a restoration does, and refuse what harms: blank, black, torn, inverted, another picture."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fdi_lib.core.gates import plausible, sound


def scene(seed: int = 0, shape: tuple[int, ...] = (160, 200, 3), dtype: type = np.uint8) -> np.ndarray:
    """A smooth random picture with structure at many scales."""
    rng = np.random.default_rng(seed)
    waves = sum(gaussian_filter(rng.normal(size=shape[:2]), s) * s for s in (2, 5, 12, 30))
    grey = 0.5 + 0.18 * (waves - waves.mean()) / max(waves.std(), 1e-9)
    out = np.clip(grey, 0, 1) * np.iinfo(dtype).max
    return np.repeat(out[..., None], 3, 2).astype(dtype) if len(shape) == 3 else out.astype(dtype)


def failed(before: np.ndarray, after: np.ndarray, *names: str) -> list[str]:
    return [gate.name for gate in plausible(before, after, names or ("noise",)) if not gate.ok]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(160, 200, 3), (161, 203), (7, 30, 3), (1, 1)])
def test_a_picture_passes_beside_itself_and_beside_a_noisy_one(dtype: type, shape: tuple[int, ...]) -> None:
    clean = scene(0, shape, dtype)
    gates = plausible(clean, clean, ("noise",))
    assert [gate.name for gate in gates] == ["not_blank", "brightness", "structure"]
    assert all(gate.ok for gate in gates)
    assert [gate.value for gate in gates] == pytest.approx([1, 0, 1], abs=1e-5)
    noisy = clean + np.random.default_rng(1).normal(0, 0.1 * np.iinfo(dtype).max, shape)
    if min(shape[:2]) > 8:
        assert not failed(np.clip(noisy, 0, np.iinfo(dtype).max).astype(dtype), clean)


def test_what_harms_is_refused() -> None:
    before = scene()
    assert "not_blank" in failed(before, np.full_like(before, 128), "low_light")
    assert {"not_blank", "brightness"} <= set(failed(before, np.zeros_like(before)))
    assert "structure" in failed(before, 255 - before)
    assert "structure" in failed(before, 255 - before, "scratch", "my-own")
    assert "structure" in failed(before, scene(9))
    assert "brightness" in failed(before // 3 + 10, before)
    torn = before.copy()
    torn[80:] = 0
    assert failed(before, torn)


def test_limits_follow_the_damage() -> None:
    dark = (scene().astype(float) * 0.3).astype(np.uint8)
    assert failed(dark, scene()) == ["brightness"]
    assert not failed(dark, scene(), "low_light")
    assert not failed(dark, scene(), "low_light", "noise")
    widest = [gate.limit for gate in plausible(dark, dark, ("mould",))]
    assert widest == [0.02, 0.6, 0.1]
    assert [gate.limit for gate in plausible(dark, dark, ("noise", "stain"))] == [0.02, pytest.approx(0.35), 0.1]


def test_a_flat_source_may_stay_flat() -> None:
    flat = np.full((64, 64, 3), 200, np.uint8)
    assert not failed(flat, flat)
    assert failed(flat, np.zeros_like(flat)) == ["brightness"]


def test_soundness() -> None:
    image = scene()
    assert [tuple(gate) for gate in sound(image, image, 1.0)] == [("finite", 1, 1, True), ("same_shape", 1, 1, True)]
    assert [tuple(gate) for gate in sound(image, None, 0.25)] == [("finite", 0.25, 1, False)]
    for other in (image[:-1], image[..., 0], image.astype(np.uint16)):
        assert not sound(image, other, 1.0)[1].ok
