"""Pictures of one colour: scans of black-and-white prints, in grey or in the tone of toner and paper base.

A grey sky looks like haze, sepia like fading, and the noise of a grey scan has no colour: to references in colour. So
monochrome pictures are looked at in grey, and compared with grey references. Pure arrays; knows neither encoders nor
files.
"""

from __future__ import annotations

import numpy as np

from fdi_lib.core.floats import LUMA

_PAPER = np.array([0.0, 0.06, 0.16], np.float32)  # how much less of each channel the yellowest paper base reflects
_TONER = np.array([-0.25, 0.0, 0.25], np.float32)  # of each channel's density: the warmest toner
_LEVELS, _LEAST = 16, 4  # classes of luma; pixels that tell something of one
_CHROMA_OF_LUMA = 0.08  # spread of colour, of the luma's, up to which a picture passes for monochrome
_QUANTISED = 1.0  # of 255: spread that rounding and JPEG leave in a picture without colour


def is_monochrome(rgb: np.ndarray) -> bool:
    """Whether colour says nothing that luma doesn't: at equal luma, all pixels have about the same colour.

    Args:
        rgb: the whole picture, uint8 HW3; reduced ones do, and lose the colour of noise.
    """
    pixels_N3 = rgb.reshape(-1, 3).astype(np.float32)
    luma_N = pixels_N3 @ LUMA
    chroma_N2 = pixels_N3[:, [0, 2]] - luma_N[:, None]
    level_N = np.minimum((luma_N * (_LEVELS / 256)).astype(int), _LEVELS - 1)
    count_L = np.bincount(level_N, minlength=_LEVELS)
    squares = 0.0
    for column_N in chroma_N2.T:
        sum_L = np.bincount(level_N, column_N, _LEVELS)
        within_L = np.bincount(level_N, column_N**2, _LEVELS) - sum_L**2 / np.maximum(count_L, 1)
        squares += float(within_L[count_L >= _LEAST].sum())
    spread = np.sqrt(max(squares, 0.0) / max(1, len(luma_N)))
    return bool(spread <= _QUANTISED + _CHROMA_OF_LUMA * float(luma_N.std()))


def grey(rgb: np.ndarray) -> np.ndarray:
    """Pictures without their colour: uint8 ...3, all three channels the luma; of what is grey, itself."""
    luma = np.rint(rgb.astype(np.float32) @ LUMA).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=-1)


def toned(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture as a toned black-and-white print on paper that may have yellowed; uint8 HW3.

    The image's densities in the three channels are in proportion (Beer-Lambert), so a channel is a power of the luma.
    Drawn are the image tone, from slightly cold to sepia, and how yellow the paper base is.
    """
    warmth, yellowness = (np.float32(rng.uniform(low, 1)) for low in (-0.3, 0))
    luma = (rgb.astype(np.float32) @ LUMA / 255)[..., None]
    print_ = (1 - yellowness * _PAPER) * luma ** (1 + warmth * _TONER)
    return np.rint(np.clip(print_, 0, 1) * 255).astype(np.uint8)
