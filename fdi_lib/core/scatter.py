"""A plot of points in a plane: groups in colours, their names at their means and in a key.

It knows points and names only; what they mean is the caller's.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDE_PX = 760
_MARGIN_PX = 14
_KEY_PX = 190
_TITLE_PX = 30
_FONT_PX = 15
_RADIUS_PX = 3
_SHOWN = (0.5, 99.5)  # percentiles of each coordinate; the few points beyond are drawn on the rim


def scatter(points: Mapping[str, np.ndarray], title: str) -> np.ndarray:
    """Draw groups of points on white; both axes have one scale.

    Args:
        points: by name of the group, N,2; finite; drawn in this order. The first group is grey.
        title: written above.

    Returns:
        uint8 HW3 RGB.
    """
    everything_N2 = np.concatenate(list(points.values()))
    low_2, high_2 = np.percentile(everything_N2, _SHOWN, axis=0)
    scale = (_SIDE_PX - 2 * _MARGIN_PX) / max(float((high_2 - low_2).max()), 1e-12)
    middle_2 = (low_2 + high_2) / 2

    def at(xy_N2: np.ndarray) -> np.ndarray:
        """To pixels; up is positive."""
        pixels_N2 = _SIDE_PX / 2 + (xy_N2 - middle_2) * (scale, -scale)
        return np.clip(pixels_N2, _MARGIN_PX / 2, _SIDE_PX - _MARGIN_PX / 2) + np.array((0, _TITLE_PX))

    picture = Image.new("RGB", (_SIDE_PX + _KEY_PX, _SIDE_PX + _TITLE_PX), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_PX)
    draw.text((_MARGIN_PX / 2, 5), title, "black", font)
    draw.rectangle((0, _TITLE_PX, _SIDE_PX - 1, _TITLE_PX + _SIDE_PX - 1), outline=(200, 200, 200))
    colours = _colours(len(points))
    for xy_N2, colour in zip(points.values(), colours, strict=True):
        for x, y in at(xy_N2):
            draw.ellipse((x - _RADIUS_PX, y - _RADIUS_PX, x + _RADIUS_PX, y + _RADIUS_PX), colour, "white")
    for row, ((name, xy_N2), colour) in enumerate(zip(points.items(), colours, strict=True)):
        x, y = at(xy_N2.mean(0))
        draw.text((x, y), name, "black", font, anchor="mm", stroke_width=2, stroke_fill="white")
        top = _TITLE_PX + 8 + row * (_FONT_PX + 7)
        draw.ellipse((_SIDE_PX + 12, top + 2, _SIDE_PX + 24, top + 14), colour)
        draw.text((_SIDE_PX + 32, top), f"{name} {len(xy_N2)}", "black", font)
    return np.asarray(picture)


def _colours(count: int) -> list[tuple[int, int, int]]:
    """Grey, then hues as far apart as so many can be, every second one darker."""
    hues = [colorsys.hsv_to_rgb(i / max(count - 1, 1), 0.9, 0.95 if i % 2 else 0.65) for i in range(count - 1)]
    return [(150, 150, 150), *((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues)]
