"""A contact sheet: rows of small pictures with a caption for every row and column.

It knows arrays and captions only; what the pictures mean is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP_PX = 6
_CAPTION_PX = 22
_ROW_CAPTION_PX = 90
_FONT_PX = 14


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    row_captions: Sequence[str],
    column_captions: Sequence[str],
    cell_px: int = 192,
) -> np.ndarray:
    """Lay pictures out on white.

    Args:
        rows: uint8 HW3 RGB pictures, the same number in every row.
        row_captions: one text a row, written at its left.
        column_captions: one text a column, written above it.
        cell_px: side that every picture is fitted into, its aspect ratio kept.

    Returns:
        uint8 HW3 RGB.
    """
    pitch = cell_px + _GAP_PX
    size = (_ROW_CAPTION_PX + pitch * len(column_captions), _CAPTION_PX + pitch * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    for c, caption in enumerate(column_captions):
        draw.text((_ROW_CAPTION_PX + c * pitch, 3), caption, "black", font)
    for r, (row, caption) in enumerate(zip(rows, row_captions, strict=True)):
        top = _CAPTION_PX + r * pitch
        draw.text((4, top + cell_px // 2), caption, "black", font)
        for c, pixels in enumerate(row):
            picture = Image.fromarray(np.ascontiguousarray(pixels))
            picture.thumbnail((cell_px, cell_px), Image.Resampling.BOX)
            sheet.paste(picture, (_ROW_CAPTION_PX + c * pitch, top))
    return np.asarray(sheet)
