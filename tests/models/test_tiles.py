"""Tiles reach the base exactly as they are stored, a group ahead of what is blended, and come back where they were."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fdi_lib.core.floats import to_float_rgb
from fdi_lib.models import tiles
from fdi_lib.models.base import Base
from fdi_lib.models.canvas import Result
from fdi_lib.models.tiles import Tiling

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def base() -> Base:
    return Base.compact().eval().requires_grad_(False)


def _every_value(dtype: type, channels: int) -> np.ndarray:
    side = 16 if dtype == np.uint8 else 256
    values = np.arange(side**2).astype(dtype).reshape(side, side)
    return values if channels == 1 else np.stack([values, values.T, values[::-1]], axis=2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_is_converted_as_on_the_cpu_to_the_bit(base, device, dtype, channels):
    image = _every_value(dtype, channels)
    tiling = Tiling(base, len(image), 0, 2, device)
    (group,) = tiling.groups(tiling.tiles([image]))
    found = tiling.pixels([image], group)
    assert found.shape == (2, 3, *image.shape[:2]) and found.is_contiguous() and found.device.type == device.type
    for tile in found.cpu().permute(0, 2, 3, 1).numpy():
        np.testing.assert_array_equal(tile, to_float_rgb(image) * 2 - 1)


@pytest.mark.parametrize("device", DEVICES)
def test_images_of_all_kinds_share_groups_and_come_back_as_they_were(base, device):
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (70, 100, 3), np.uint8),
        rng.integers(0, 65536, (64, 130), np.uint16),
        rng.integers(0, 256, (10, 20), np.uint8),
        rng.random((90, 64, 3), np.float32) * 2 - 1,
    ]
    images[0].setflags(write=False)  # as decoders give them
    tiling = Tiling(base, 64, 16, 3, device)
    groups = tiling.groups(tiling.tiles(images))
    assert {len(group) for group in groups} == {3} and any({0, 1} <= {t.image for t in group} for group in groups)
    made = ((group, base.encode(tiling.pixels(images, group))) for group in groups)
    for result, image in zip(tiling.over(images, made, [*images[:3], None]), images, strict=True):
        assert result.finite == 1 and result.pixels.dtype == image.dtype
        np.testing.assert_allclose(result.pixels, image, atol=1e-6)


def test_a_group_is_asked_for_before_rows_of_the_one_before_it_are_waited_for(base, monkeypatch):
    happened = []

    class Rows(Result):
        def put(self, rows: slice, values_3RW: torch.Tensor) -> object:
            happened.append(f"rows {rows.start}")
            write = super().put(rows, values_3RW)
            return lambda: happened.append(f"wrote {rows.start}") or write()

    monkeypatch.setattr(tiles, "Result", Rows)
    image = np.zeros((200, 64, 3), np.uint8)
    tiling = Tiling(base, 64, 0, 1, CPU)

    def made() -> Iterator[object]:
        for number, group in enumerate(tiling.groups(tiling.tiles([image]))):
            happened.append(f"group {number}")
            yield group, base.encode(tiling.pixels([image], group))

    tiling.over([image], made())
    assert happened == [
        "group 0", "group 1", "group 2", "rows 0", "group 3", "rows 45", "wrote 0", "rows 91", "wrote 45", "rows 136",
        "wrote 91", "wrote 136",
    ]  # fmt: skip
