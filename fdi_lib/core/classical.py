"""The method a user would otherwise pick for each degradation, to compare a restoration with.

Library functions where scikit-image has them. Parameters were tuned by :func:`tune` on the calibration pictures only;
a method that harms there is replaced by doing nothing. It does not know about adapters, files or scores of the test
pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import convolve, minimum_filter, uniform_filter
from skimage.exposure import equalize_adapthist
from skimage.morphology import closing, dilation, disk, opening
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, inpaint_biharmonic

from fdi_lib.core.metrics import psnr


def noise_sigma(image: np.ndarray) -> float:
    """Standard deviation of white noise in an HW3 image [0, 1], by Immerkaer's mask (CVIU 1996), mean over channels."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = convolve(image, mask[..., None], mode="reflect")
    return float(np.sqrt(np.pi / 2) * np.abs(response).mean() / 6)


def non_local_means(image: np.ndarray, h_factor: float, patch_px: int, reach_px: int) -> np.ndarray:
    """Non-local means (Buades et al. 2005) with the noise estimated from the image; ``h_factor`` scales the filter."""
    sigma = noise_sigma(image)
    return denoise_nl_means(
        image,
        patch_size=patch_px,
        patch_distance=reach_px,
        h=h_factor * sigma,
        sigma=sigma,
        fast_mode=True,
        channel_axis=-1,
    )


def total_variation(image: np.ndarray, weight: float) -> np.ndarray:
    """Total variation denoising (Chambolle 2004), channels together."""
    return denoise_tv_chambolle(image, weight=weight, channel_axis=-1)


def dark_channel(image: np.ndarray, patch_px: int, omega: float, floor: float, radius_px: int) -> np.ndarray:
    """Dark channel prior (He et al. 2009): airlight, transmission refined by a guided filter, scene radiance."""
    dark = minimum_filter(image.min(axis=2), patch_px)
    brightest = np.argsort(dark.ravel())[-max(1, dark.size // 1000) :]
    airlight = image.reshape(-1, 3)[brightest].mean(axis=0)
    raw = 1 - omega * minimum_filter((image / np.maximum(airlight, 1e-3)).min(axis=2), patch_px)
    transmission = _guided(image.mean(axis=2), raw, radius_px)
    return (image - airlight) / np.maximum(transmission, floor)[..., None] + airlight


def _guided(guide: np.ndarray, image: np.ndarray, radius_px: int, epsilon: float = 1e-3) -> np.ndarray:
    """Guided filter (He et al. 2010) of one HW plane by another, box windows of ``2 * radius_px + 1``."""

    def box(plane: np.ndarray) -> np.ndarray:
        return uniform_filter(plane, 2 * radius_px + 1, mode="nearest")

    mean_guide, mean_image = box(guide), box(image)
    slope = (box(guide * image) - mean_guide * mean_image) / (box(guide * guide) - mean_guide**2 + epsilon)
    return box(slope) * guide + box(mean_image - slope * mean_guide)


def adaptive_histogram(image: np.ndarray, clip_limit: float, mean: float) -> np.ndarray:
    """Gamma to a target mean brightness, then contrast-limited adaptive equalisation (CLAHE), none at limit 0."""
    grey = float(np.clip(image.mean(), 1e-3, 0.999))
    lifted = np.clip(image, 0, 1) ** (np.log(mean) / np.log(grey))
    return equalize_adapthist(lifted, clip_limit=clip_limit) if clip_limit else lifted


def gain_to_mean(image: np.ndarray, mean: float) -> np.ndarray:
    """Multiply so that the mean brightness becomes ``mean``; highlights clip."""
    return image * (mean / max(float(image.mean()), 1e-3))


def tophat_inpainting(image: np.ndarray, radius_px: int, threshold: float, grow_px: int, most: float) -> np.ndarray:
    """Fill thin bright and dark structures, found by white and black top-hat, by biharmonic inpainting.

    A mask over more than the share ``most`` is not scratches but texture: the image is returned as it is.
    """
    grey, element = image.mean(axis=2), disk(radius_px)
    hat = np.maximum(grey - opening(grey, element), closing(grey, element) - grey)
    mask = hat > threshold
    mask = dilation(mask, disk(grow_px)) if grow_px else mask
    if not mask.any() or mask.mean() > most:
        return image
    return inpaint_biharmonic(image, mask, channel_axis=-1, split_into_regions=False)


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

# What tune() chooses from: a method with the values tried for each parameter.
CANDIDATES: dict[str, list[tuple[str, Callable[..., np.ndarray], dict[str, Sequence[float]]]]] = {
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
}


def classical_method(name: str) -> Method:
    """Return the tuned method for a degradation; do nothing where none is known, or none helped."""
    return CHOSEN.get(name, NOTHING)
