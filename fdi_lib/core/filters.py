"""Classical restoration filters, from scikit-image and SciPy where they have them: what people use without learning.

Images are float HW3 RGB, nominally in [0, 1]; results may leave that range. This module knows no degradation's name
and no tuned value (``classical.py`` does).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve, gaussian_filter, median_filter, minimum_filter, uniform_filter
from skimage.exposure import equalize_adapthist
from skimage.filters import unsharp_mask
from skimage.morphology import closing, dilation, disk, opening
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, inpaint_biharmonic, wiener


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


def median(image: np.ndarray, size_px: int) -> np.ndarray:
    """Median of ``size_px`` x ``size_px`` pixels, each channel by itself."""
    return np.asarray(median_filter(image, size=(size_px, size_px, 1), mode="reflect"))


def without_bright(image: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """Grey opening: bright marks that a box of this size doesn't fit into (streaks, flakes) vanish."""
    return np.stack([opening(plane, np.ones((height_px, width_px))) for plane in np.moveaxis(image, 2, 0)], axis=2)


def without_dark(image: np.ndarray, size_px: int, mix: float) -> np.ndarray:
    """Grey closing, mixed with the image: dark strokes that a disc of this radius covers vanish."""
    element = disk(size_px)
    closed = np.stack([closing(plane, element) for plane in np.moveaxis(image, 2, 0)], axis=2)
    return (1 - mix) * image + mix * closed


def sharpened(image: np.ndarray, radius_px: float, amount: float) -> np.ndarray:
    """Unsharp masking."""
    return np.asarray(unsharp_mask(image, radius=radius_px, amount=amount, channel_axis=-1))


def blur_radius(image: np.ndarray) -> float:
    """Radius, px, of a disc that would blur a step edge as much as the image's edges are blurred, by re-blurring.

    After Zhuo and Sim (Pattern Recognition, 2011): at strong edges the ratio of gradients before and after a known
    Gaussian gives the unknown one; a disc of radius r spreads as a Gaussian of r / 2.
    """
    grey, known = image.mean(axis=2), 1.5
    before = np.hypot(*np.gradient(grey))
    after = np.hypot(*np.gradient(gaussian_filter(grey, known)))
    edge = before > np.quantile(before, 0.95)
    ratio = before[edge] / np.maximum(after[edge], 1e-6)
    return float(2 * known / np.sqrt(max(float(np.median(ratio)) ** 2 - 1, 1e-2)))


def streak_angle(image: np.ndarray) -> float:
    """Direction of motion blur, radians: along it the image varies least (smallest eigenvector of the structure)."""
    dy, dx = np.gradient(image.mean(axis=2))
    _, vectors = np.linalg.eigh([[float((dx * dx).mean()), float((dx * dy).mean())],
                                 [float((dx * dy).mean()), float((dy * dy).mean())]])  # fmt: skip
    return float(np.arctan2(vectors[1, 0], vectors[0, 0]))


def deconvolved_disc(image: np.ndarray, scale: float, balance: float) -> np.ndarray:
    """Wiener deconvolution by a disc of the estimated radius times ``scale``."""
    radius = float(np.clip(scale * blur_radius(image), 0.5, 15))
    side = int(np.ceil(radius))
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    return _wiener(image, np.clip(radius + 0.5 - np.hypot(y, x), 0, 1), balance)


def deconvolved_line(image: np.ndarray, length_px: float, balance: float) -> np.ndarray:
    """Wiener deconvolution by a straight line of this length in the estimated direction."""
    angle, side = streak_angle(image), int(np.ceil(length_px / 2))
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return _wiener(image, np.clip(1 - np.abs(across), 0, 1) * (np.abs(along) <= length_px / 2), balance)


def _wiener(image: np.ndarray, kernel: np.ndarray, balance: float) -> np.ndarray:
    """Wiener filter with mirrored edges, so that the wrap-around of the transform stays outside."""
    pad = 2 * len(kernel)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    planes = [wiener(plane, kernel / kernel.sum(), balance, clip=False) for plane in np.moveaxis(padded, 2, 0)]
    return np.stack(planes, axis=2)[pad:-pad, pad:-pad]


def stretched(image: np.ndarray, low: float, high: float, black: float, white: float) -> np.ndarray:
    """Stretch each channel so that its ``low`` and ``high`` quantiles become ``black`` and ``white``."""
    least, most = (np.quantile(image, q, axis=(0, 1)) for q in (low, high))
    return black + (image - least) * (white - black) / np.maximum(most - least, 1e-3)


def evened(image: np.ndarray, sigma_px: float, power: float, level: float) -> np.ndarray:
    """Divide by the smoothed brightness to a power: uneven light and stains level out (single-scale retinex)."""
    smooth = gaussian_filter(image.mean(axis=2), sigma_px, mode="reflect")
    gain = (np.quantile(smooth, level) / np.maximum(smooth, 1e-3)) ** power
    return image * gain[..., None]
