"""The contact sheet holds every picture in its cell."""

from __future__ import annotations

import numpy as np

from fdi_lib.core.sheet import contact_sheet


def test_pictures_lie_in_their_cells() -> None:
    red, blue = (np.zeros((40, 40, 3), np.uint8) for _ in range(2))
    red[..., 0], blue[..., 2] = 255, 255
    sheet = contact_sheet([[red, blue], [blue, red]], ("input", "restored"), ("noise", "haze"), cell_px=40)
    height, width = sheet.shape[:2]
    assert sheet.dtype == np.uint8
    corner = sheet[height - 26, width - 26]
    assert corner.tolist() == [255, 0, 0]
    assert sheet[height - 26, width - 26 - 46].tolist() == [0, 0, 255]
    assert (sheet[:, :90] < 128).any()  # captions are drawn
