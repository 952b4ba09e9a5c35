"""The two looks the encoder takes at an image: the whole of it, reduced, and crops at native resolution.

Fine noise and JPEG blocks vanish when a scan is reduced; haze and fading don't show in a crop. A crop can be shown as
its detail, local mean removed and amplified: a small encoder learns fine damage several times faster from that. Pure
arrays; this module does not know the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from fdi_lib.core.monochrome import grey, is_monochrome

_GRID = 8  # crops start on multiples of the JPEG block, so that blocks look alike in every crop


@dataclass(frozen=True)
class ViewSpec:
    """Size and number of views.

    Args:
        size_px: side of every view.
        crops: native-resolution crops (1, or a square number: one at the centre of each cell of a regular grid).
        detail_gain: crops become ``128 + gain * (crop - local mean)``; 0 shows them as they are.
    """

    size_px: int = 96
    crops: int = 4
    detail_gain: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a number of crops that no square grid has."""
        if round(self.crops**0.5) ** 2 != self.crops:
            raise ValueError(f"crops must be a square number, not {self.crops}")

    @classmethod
    def from_encoder(cls, config: Mapping[str, Any]) -> ViewSpec:
        """The views that an encoder of this configuration takes."""
        return cls(config["vision"]["image_size"], config["crops"], config["detail_gain"])

    @property
    def count(self) -> int:
        """Views of one image: the whole and the crops."""
        return 1 + self.crops


def check_images(images: Sequence[np.ndarray]) -> None:
    """Refuse what is no list of HW or HW3 arrays of uint8 or uint16.

    Raises:
        ValueError: names the first image that is of another kind, and what it is.
    """
    if isinstance(images, np.ndarray):
        raise ValueError(f"expected a list of images, got one array of shape {images.shape}")
    for number, image in enumerate(images):
        what = f"image {number} is {type(image).__name__}"
        if not isinstance(image, np.ndarray):
            raise ValueError(f"{what}; expected a NumPy array")
        grey_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype not in (np.uint8, np.uint16) or not grey_or_rgb or not image.size:
            raise ValueError(f"{what} {image.dtype} {image.shape}; expected uint8 or uint16, H x W or H x W x 3 (RGB)")


def to_rgb8(pixels: np.ndarray) -> np.ndarray:
    """Return HW or HW3, uint8 or uint16, as HW3 uint8 RGB (16 bits are rounded, grey is repeated)."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return pixels


def make_views(pixels: np.ndarray, spec: ViewSpec, *, as_is: bool = False) -> np.ndarray:
    """Return the views of an image; a monochrome one is looked at in grey (:mod:`fdi_lib.core.monochrome`).

    Args:
        pixels: HW (grey) or HW3 (RGB), uint8 or uint16.
        spec: size and number.
        as_is: look at it as it is, whatever its colours: references are made so.

    Returns:
        uint8 array V,S,S,3 RGB: the whole image reduced to S x S (its aspect ratio given up), then the crops.
    """
    size = spec.size_px
    height, width = pixels.shape[:2]
    reduced = Image.fromarray(np.ascontiguousarray(to_rgb8(pixels))).resize((size, size), Image.Resampling.BOX)
    whole = np.asarray(reduced)
    in_grey = not as_is and is_monochrome(whole)
    views = [grey(whole) if in_grey else whole]
    cells = round(spec.crops**0.5)
    for row in range(cells):
        for column in range(cells):
            y = _start((2 * row + 1) * height // (2 * cells), height, size)
            x = _start((2 * column + 1) * width // (2 * cells), width, size)
            crop = _padded(to_rgb8(pixels[y : y + size, x : x + size]), size)
            crop = grey(crop) if in_grey else crop  # before its detail is amplified, and clipped
            views.append(_detail(crop, spec.detail_gain) if spec.detail_gain else crop)
    return np.stack(views)


def _detail(crop: np.ndarray, gain: float) -> np.ndarray:
    """A crop's detail: what differs from the mean of 5 x 5 pixels, amplified around mid-grey; uint8."""
    values = crop.astype(np.float32)
    smooth = uniform_filter(values, size=(5, 5, 1), mode="reflect")
    return np.clip(128 + gain * (values - smooth), 0, 255).astype(np.uint8)


def _start(centre: int, side: int, size: int) -> int:
    """First pixel of a crop of ``size`` around ``centre``, on the block grid and inside ``side``."""
    return max(0, min(centre - size // 2, side - size)) // _GRID * _GRID


def _padded(crop: np.ndarray, size: int) -> np.ndarray:
    """Mirror a crop of a small image up to ``size``."""
    height, width = crop.shape[:2]
    if height == size and width == size:
        return crop
    return np.pad(crop, ((0, size - height), (0, size - width), (0, 0)), mode="symmetric")
