"""The method a user would otherwise pick for each degradation, to compare a restoration with.

Filters are those of ``filters.py``. Parameters were tuned by :func:`tune` on the calibration pictures only; a method
that harms there is replaced by doing nothing. It does not know about adapters, files or scores of the test pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fdi_lib.core.filters import (
    adaptive_histogram,
    dark_channel,
    deconvolved_disc,
    deconvolved_line,
    evened,
    gain_to_mean,
    median,
    non_local_means,
    sharpened,
    stretched,
    tophat_inpainting,
    total_variation,
    without_bright,
    without_dark,
)
from fdi_lib.core.metrics import psnr


def nothing(image: np.ndarray) -> np.ndarray:
    """The image as it is."""
    return image


@dataclass(frozen=True)
class Method:
    """A named function of an image with its tuned parameters."""

    label: str
    function: Callable[..., np.ndarray]
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Apply to a float32 HW3 image [0, 1]; the same shape and range come back."""
        return np.clip(self.function(image, **self.parameters), 0, 1).astype(np.float32)


NOTHING = Method("do nothing", nothing)

_Candidate = tuple[str, Callable[..., np.ndarray], dict[str, Sequence[float]]]
_UNSHARP: _Candidate = ("unsharp mask", sharpened, {"radius_px": (1.0, 2.0, 4.0), "amount": (0.3, 0.6, 1.0, 1.5)})
_MEDIAN: _Candidate = ("median", median, {"size_px": (3, 5, 7)})

# What tune() chooses from: a method with the values tried for each parameter.
CANDIDATES: dict[str, list[_Candidate]] = {
    "noise": [
        (
            "non-local means",
            non_local_means,
            {"h_factor": (0.3, 0.4, 0.5, 0.6, 0.8), "patch_px": (5, 7), "reach_px": (11, 15)},
        )
    ],
    "jpeg": [("total variation", total_variation, {"weight": (0.01, 0.02, 0.03, 0.04, 0.06)})],
    "haze": [
        (
            "dark channel prior",
            dark_channel,
            {
                "patch_px": (3, 5, 7, 15),
                "omega": (0.85, 0.9, 0.95),
                "floor": (0.3, 0.4, 0.5, 0.6),
                "radius_px": (20, 40, 60),
            },
        )
    ],
    "low_light": [
        ("gamma", adaptive_histogram, {"clip_limit": (0.0,), "mean": (0.15, 0.175, 0.2, 0.25, 0.3, 0.35)}),
        (
            "gamma and CLAHE",
            adaptive_histogram,
            {"clip_limit": (0.0005, 0.001, 0.003), "mean": (0.15, 0.175, 0.2, 0.25, 0.3)},
        ),
        ("gain", gain_to_mean, {"mean": (0.15, 0.2, 0.25, 0.3, 0.35)}),
    ],
    "scratch": [
        (
            "top-hat mask, biharmonic inpainting",
            tophat_inpainting,
            {"radius_px": (2, 3), "threshold": (0.06, 0.08, 0.1, 0.15), "grow_px": (1, 2), "most": (0.4, 0.6, 0.8)},
        )
    ],
    "motion_blur": [
        ("Wiener, estimated direction", deconvolved_line, {"length_px": (5.0, 9.0, 15.0), "balance": (0.03, 0.1, 0.3)}),
        _UNSHARP,
    ],
    "defocus": [
        ("Wiener, estimated disc", deconvolved_disc, {"scale": (0.5, 0.75, 1.0), "balance": (0.01, 0.03, 0.1, 0.3)}),
        _UNSHARP,
    ],
    "low_resolution": [("bicubic and unsharp mask", *_UNSHARP[1:]), _MEDIAN],
    "rain": [("opening", without_bright, {"width_px": (2, 3, 5, 7), "height_px": (1, 2)}), _MEDIAN],
    "snow": [("opening", without_bright, {"width_px": (3, 5, 7, 9), "height_px": (3, 5, 7, 9)}), _MEDIAN],
    "raindrop": [("opening", without_bright, {"width_px": (3, 5), "height_px": (3, 5)}), _MEDIAN],
    "shadow": [
        ("retinex", evened, {"sigma_px": (10.0, 20.0, 40.0), "power": (0.4, 0.6, 0.8), "level": (0.75, 0.95)}),
        ("gamma and CLAHE", adaptive_histogram, {"clip_limit": (0.0, 0.001, 0.005), "mean": (0.3, 0.35, 0.4, 0.45)}),
    ],
    "fade": [
        (
            "levels of each channel",
            stretched,
            {"low": (0.0, 0.01, 0.05), "high": (0.95, 0.99, 1.0), "black": (0.0, 0.05), "white": (0.7, 0.8, 0.9)},
        ),
        ("gamma and CLAHE", adaptive_histogram, {"clip_limit": (0.0, 0.001, 0.005), "mean": (0.3, 0.35, 0.4, 0.45)}),
    ],
    "stain": [
        ("background division", evened, {"sigma_px": (10.0, 20.0, 40.0), "power": (0.2, 0.4), "level": (0.5, 0.75)}),
        ("levels of each channel", stretched, {"low": (0.0, 0.01), "high": (0.99,), "black": (0.0,), "white": (0.9,)}),
    ],
    "bleed_through": [
        ("closing", without_dark, {"size_px": (1, 2, 3, 5), "mix": (0.5, 0.75, 1.0)}),
        ("background division", evened, {"sigma_px": (5.0, 10.0, 20.0), "power": (0.3, 0.6), "level": (0.75, 0.95)}),
    ],
}


def tune(name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Method, float]:
    """Choose the method and parameters with the highest mean PSNR gain; do nothing when none gains.

    Args:
        name: a degradation.
        pairs: (degraded, clean) float32 HW3 [0, 1], of calibration pictures, never of test pictures.

    Returns:
        The method, and its mean gain in dB over the degraded input.
    """
    before = np.mean([psnr(degraded, clean) for degraded, clean in pairs])
    best, best_gain = NOTHING, 0.0
    for label, function, grid in CANDIDATES.get(name, []):
        for values in itertools.product(*grid.values()):
            method = Method(label, function, dict(zip(grid, values, strict=True)))
            gain = float(np.mean([psnr(method(degraded), clean) for degraded, clean in pairs]) - before)
            if gain > best_gain:
                best, best_gain = method, gain
    return best, best_gain


def best_known(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Method:
    """Choose among the tuned methods of all degradations the one that gains most on pairs of a further one.

    Args:
        pairs: (degraded, clean) float32 HW3 [0, 1], not those that are measured.
    """
    before = np.mean([psnr(degraded, clean) for degraded, clean in pairs])
    gain = {
        name: float(np.mean([psnr(method(degraded), clean) for degraded, clean in pairs]) - before)
        for name, method in CHOSEN.items()
    }
    best = max(gain, key=lambda name: gain[name])
    return CHOSEN[best] if gain[best] > 0 else NOTHING


# Chosen by tune() on 32 tiles of 256 px, spread over the 10 photographs of split `calibration`, uniform severities,
# seed 0 (docs/evaluation.md has the command). The gain there in dB stands behind each.
CHOSEN: dict[str, Method] = {
    "noise": Method("non-local means", non_local_means, {"h_factor": 0.5, "patch_px": 5, "reach_px": 11}),  # 11.8
    "jpeg": Method("total variation", total_variation, {"weight": 0.04}),  # 0.6
    "haze": Method(
        "dark channel prior", dark_channel, {"patch_px": 5, "omega": 0.9, "floor": 0.5, "radius_px": 40}
    ),  # 8.0
    "low_light": Method("gamma and CLAHE", adaptive_histogram, {"clip_limit": 0.0005, "mean": 0.175}),  # 10.4
    "scratch": Method(
        "top-hat mask, biharmonic inpainting",
        tophat_inpainting,
        {"radius_px": 2, "threshold": 0.08, "grow_px": 1, "most": 0.8},
    ),  # 12.6
    "rain": Method("opening", without_bright, {"width_px": 7, "height_px": 2}),  # 5.3
    "snow": Method("opening", without_bright, {"width_px": 9, "height_px": 3}),  # 3.8
    "raindrop": Method("median", median, {"size_px": 7}),  # 0.7
    "shadow": Method("retinex", evened, {"sigma_px": 10.0, "power": 0.8, "level": 0.95}),  # 4.4
    "fade": Method("gamma", adaptive_histogram, {"clip_limit": 0.0, "mean": 0.3}),  # 2.9
    "stain": Method("background division", evened, {"sigma_px": 40.0, "power": 0.2, "level": 0.75}),  # 0.0
    "bleed_through": Method("closing", without_dark, {"size_px": 5, "mix": 1.0}),  # 2.8
    "low_resolution": Method("median", median, {"size_px": 7}),  # 0.3
    "defocus": Method("Wiener, estimated disc", deconvolved_disc, {"scale": 0.5, "balance": 0.3}),  # 0.4
    "motion_blur": Method("Wiener, estimated direction", deconvolved_line, {"length_px": 5.0, "balance": 0.3}),  # 0.1
}


def classical_method(name: str) -> Method:
    """Return the tuned method for a degradation; do nothing where none is known, or none helped."""
    return CHOSEN.get(name, NOTHING)
