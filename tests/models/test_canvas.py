"""Tiles are blended from the top, and rows come back as integers to the bit as numpy computes them."""

import numpy as np
import pytest
import torch

from fdi_lib.core.floats import to_float_rgb
from fdi_lib.core.tiling import blend_window, cut, tile_starts
from fdi_lib.models.canvas import Canvas, Result, as_image

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
CUTS = [((150, 201), 64, 16), ((64, 300), 64, 0), ((40, 50), 64, 16)]


def _blended(image: np.ndarray, tile: int, overlap: int, device: torch.device) -> list[tuple[slice, np.ndarray]]:
    rows = list[tuple[slice, torch.Tensor]]()
    canvas = Canvas(image.shape[:2], tile, overlap, device, lambda at, values: rows.append((at, values)))
    for y in tile_starts(image.shape[0], tile, overlap):
        for x in tile_starts(image.shape[1], tile, overlap):
            canvas.add(y, x, torch.from_numpy(cut(image, y, x, tile).transpose(2, 0, 1).copy()).to(device))
            assert all(at.stop <= y for at, _ in rows), "no row that another tile may change"
    canvas.close()
    return [(at, values.permute(1, 2, 0).cpu().numpy()) for at, values in rows]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "tile", "overlap"), CUTS)
def test_a_canvas_gives_finished_rows_from_the_top(shape, tile, overlap, device):
    image = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    rows = _blended(image, tile, overlap, device)
    assert [at.start for at, _ in rows] == [0, *(at.stop for at, _ in rows[:-1])] and rows[-1][0].stop == shape[0]
    np.testing.assert_allclose(np.concatenate([values for _, values in rows]), image, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_tiles_that_differ_are_blended_to_the_bit_as_numpy_does(device):
    rng, rows = np.random.default_rng(0), list[torch.Tensor]()
    canvas = Canvas((100, 150), 64, 16, device, lambda at, values: rows.append(values))
    sums, totals = np.zeros((3, 100, 150), np.float32), np.zeros((100, 150), np.float32)
    window = blend_window(64, 16)
    for y in tile_starts(100, 64, 16):
        for x in tile_starts(150, 64, 16):
            piece = rng.random((3, 64, 64), np.float32)
            canvas.add(y, x, torch.from_numpy(piece).to(device))
            sums[:, y : y + 64, x : x + 64] += piece * window
            totals[y : y + 64, x : x + 64] += window
    canvas.close()
    np.testing.assert_array_equal(torch.cat(rows, dim=1).cpu().numpy(), sums / totals)


def _integers(values_HW3: np.ndarray, like: np.ndarray) -> np.ndarray:
    unit = np.clip(values_HW3 / 2 + 0.5, 0, 1)
    if like.ndim == 2:
        weights = np.float32([0.299, 0.587, 0.114])
        unit = np.clip(unit[..., 0] * weights[0] + unit[..., 1] * weights[1] + unit[..., 2] * weights[2], 0, 1)
    return np.rint(unit * np.float32(np.iinfo(like.dtype).max)).astype(like.dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_become_integers_as_numpy_has_them(dtype, channels, device):
    values = (np.random.default_rng(0).random((90, 110, 3), np.float32) * 2.4 - 1.2).astype(np.float32)
    like = np.zeros((90, 110) if channels == 1 else (90, 110, 3), dtype)
    result = Result((90, 110), like)
    for rows in (slice(0, 40), slice(40, 90)):
        result.put(rows, torch.from_numpy(values[rows].transpose(2, 0, 1).copy()).to(device))()
    assert result.finite == 1 and result.pixels.dtype == dtype
    np.testing.assert_array_equal(result.pixels, _integers(values, like))


def test_rows_that_are_not_finite_are_counted():
    values = torch.zeros(3, 4, 5)
    values[1, 2, 3] = torch.nan
    integers, floats = Result((8, 5), np.zeros((8, 5, 3), np.uint8)), Result((8, 5), None)
    for result in (integers, floats):
        result.put(slice(0, 4), values)()
        result.put(slice(4, 8), torch.zeros(3, 4, 5))()
        assert result.finite == pytest.approx(1 - 1 / 120)
    assert (integers.pixels[4:] == 128).all() and np.isnan(floats.pixels[2, 3, 1])


def test_grey_comes_back_grey_and_nonsense_is_refused():
    tinted = np.full((4, 4, 3), -1, np.float32)
    tinted[..., 1] = 1.0
    assert as_image(tinted, np.zeros((4, 4), np.uint8)).tolist() == [[150] * 4] * 4  # 0.587 x 255, Rec. 601
    assert as_image(tinted * 7, np.zeros((4, 4, 3), np.uint8))[0, 0].tolist() == [0, 255, 0]  # clipped
    tinted[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="not numbers"):
        as_image(tinted, np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_survives_the_way_through_floats(dtype, channels):
    every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(256, -1)
    pixels = every if channels == 1 else np.stack([every, every[::-1], every.T.reshape(every.shape)], axis=2)
    np.testing.assert_array_equal(as_image(to_float_rgb(pixels) * 2 - 1, pixels), pixels)
