"""Damage by age and damp: faded dyes, stains and the verso showing through.

Each function takes a float32 HW3 RGB image in [0, 1] and returns a new one. It does not know about severities.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fdi_lib.core.degrade.fields import plane, smooth_field, splat
from fdi_lib.core.degrade.verso import verso_ink

_DARKEST = np.float32(1 / 255)  # optical density 2.4: the blackest a print gets


def fade(
    image: np.ndarray,
    rng: np.random.Generator,
    kept: np.ndarray,
    crosstalk: float,
    yellowing: float,
    unevenness: float,
) -> np.ndarray:
    """Fade the dyes of a print and yellow its paper.

    Density ``D = -log10(image)``; ``D' = C (kept * D) + paper``; the result is ``10 ** -D'``.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness (uneven exposure to light).
        kept: float 3, part of the cyan, magenta and yellow dye that is left, 0.25 to 1.
        crosstalk: side absorption between dyes in the colour matrix C, 0 to 0.2.
        yellowing: blue density gained by the paper, 0 to 0.3.
        unevenness: how much the loss varies over the picture, 0 to 0.2.

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Dye fading in density space with a 3 x 3 matrix: Gschwind and Frey, "Electronic imaging, a tool for the
        reconstruction of faded color photographs", JIST 1994.
    """
    density = -np.log2(np.maximum(image, _DARKEST))
    matrix = np.full((3, 3), crosstalk / 2) + (1 - 1.5 * crosstalk) * np.eye(3)
    matrix = (matrix * kept).astype(np.float32)  # scales columns: first the dye is lost, then dyes mix
    shape = image.shape[:2]
    uneven = np.float32(0.5) * plane(shape, rng) + np.float32(0.5) * smooth_field(shape, rng, 120.0)
    density = (density @ matrix.T) * (1 + np.float32(2 * unevenness) * (uneven - np.float32(0.5)))[..., None]
    paper = np.array([0.06, 0.25, 1.0], np.float32) * np.float32(yellowing * np.log2(10))
    return np.exp2(-(density + paper))


def stain(image: np.ndarray, rng: np.random.Generator, strength: float, wet_share: float, foxing: float) -> np.ndarray:
    """Water stains with tide lines, and foxing.

    Args:
        image: float32 HW3 in [0, 1].
        rng: source of randomness.
        strength: darkening at a tide line, 0 to 1.
        wet_share: part of the image inside water stains, 0 to 0.6.
        foxing: share of the area under brown spots, 0 to 0.15.

    Returns:
        float32 HW3 in [0, 1].

    Source:
        Own model of what conservators describe: dirt carried to the drying front (the coffee-ring effect, Deegan et
        al., Nature 1997) and rust-brown foxing spots; dirt multiplies the light that paper reflects.
    """
    shape = image.shape[:2]
    field = smooth_field(shape, rng, 110.0, octaves=4)
    level = np.quantile(field[::4, ::4], 1 - wet_share)
    slope = np.hypot(*np.gradient(field)) + np.float32(1e-3)
    inside_px = np.clip((field - level) / slope, -30, 30)  # about the distance to the drying front
    wet = np.clip(inside_px / np.float32(1.5) + np.float32(0.5), 0, 1)
    tide = wet * np.exp(-np.maximum(inside_px, 0) / np.float32(rng.uniform(2.0, 5.0)))
    dirt = np.float32(strength) * (np.float32(0.35) * wet + np.float32(0.65) * tide)
    brown = np.array([0.35, 0.6, 1.0], np.float32) * np.float32(rng.uniform(0.85, 1.0))
    result = image * (1 - dirt[..., None] * brown)
    if foxing > 0:
        rust = np.array([0.3, 0.62, 1.0], np.float32)
        spots = _spots(shape, rng, foxing) * np.float32(min(1.0, 0.4 + strength))
        result = result * (1 - spots[..., None] * rust)
    return result


def _spots(shape: tuple[int, int], rng: np.random.Generator, share: float) -> np.ndarray:
    spots = np.zeros(shape, np.float32)
    for part, sigma_px in ((0.4, 1.2), (0.6, 2.8)):
        area = 2 * np.pi * sigma_px**2
        count = max(1, int(rng.poisson(part * share * shape[0] * shape[1] / area)))
        y, x = rng.uniform(0, shape[0], count), rng.uniform(0, shape[1], count)
        points = splat(shape, y, x, rng.uniform(0.4, 1.3, count) * area)
        spots = np.maximum(spots, ndimage.gaussian_filter(points, sigma_px, mode="constant", truncate=3.0))
    return np.minimum(spots, 1)


def bleed_through(
    image: np.ndarray, rng: np.random.Generator, opacity: float, spread_px: float, kind: str
) -> np.ndarray:
    """Let what is on the verso show through the paper, mirrored and diffused.

    Args:
        image: float32 HW3 in [0, 1]; the recto.
        rng: source of randomness.
        opacity: light lost under solid verso ink, 0 to 1.
        spread_px: standard deviation of the diffusion in the paper, 0.5 to 3.
        kind: what the verso carries: ``print``, ``script`` or ``picture``.

    Returns:
        float32 HW3 in [0, 1].

    Raises:
        ValueError: unknown kind.

    Source:
        Sharma, "Show-through cancellation in scans of duplex printed documents", TIP 2001: the recto's reflectance
        times the transmission of the blurred verso.
    """
    ink = ndimage.gaussian_filter(verso_ink(image, rng, kind), spread_px, mode="mirror", truncate=3.0)
    # Oil and iron creep farther than the line itself: a faint halo joins the strokes.
    halo = ndimage.gaussian_filter(ink, 4 * spread_px, mode="mirror", truncate=2.5)
    ink = np.float32(0.7) * ink + np.float32(0.3) * np.minimum(np.float32(1.5) * halo, 1)
    tint = np.array([0.92, 0.97, 1.0], np.float32)  # ink that has gone through paper looks brownish
    return image * (1 - np.float32(opacity) * ink[..., None] * tint)
