"""Seams are found where they are, and nowhere else; memory is that of the process and of its children."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fdi_lib.core.decision import Decision
from fdi_lib.core.protocol import Tile
from fdi_lib.core.tiling import tile_starts
from jobs.benches import large_memory
from jobs.benches.large import compare, identity, seam_ratio


def picture(side: int = 160) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (side, side, 3)).astype(np.uint8)


def stepped(image: np.ndarray, at: int) -> np.ndarray:
    """Everything to the right of a column is 50 lighter."""
    out = image.astype(int)
    out[:, at:] += 50
    return np.clip(out, 0, 255).astype(np.uint8)


def test_a_step_counts_where_tiles_end() -> None:
    flat = np.full((160, 160, 3), 100, np.uint8) + np.arange(160, dtype=np.uint8)[:, None, None] % 2
    assert tile_starts(160, 64, 16) == [0, 48, 96]
    before = seam_ratio(flat, 64, 16)
    for border in (48, 64, 96, 112):
        assert seam_ratio(stepped(flat, border), 64, 16) > 1.5 * before
    assert seam_ratio(stepped(flat, 80), 64, 16) < before


def test_tiled_is_compared_with_whole() -> None:
    tiles = [Tile("a", 0, picture()), Tile("b", 0, picture()[::-1])]

    def whole(image: np.ndarray, decision: Decision, key: int) -> np.ndarray:
        assert decision.composition == "noise:1.00" and key
        return image

    same = compare("noise", tiles, whole, whole, 64, 16)
    assert same["seam"] == same["worst_seam"] == 1 and same["agreement_db"] == 100
    assert same["psnr_whole"] == same["psnr_tiled"] < 30
    worse = compare("noise", tiles, lambda *given: stepped(whole(*given), 48), whole, 64, 16)
    assert worse["worst_seam"] >= worse["seam"] > 1.01
    assert worse["least_agreement_db"] <= worse["agreement_db"] < 20


def test_without_a_model_tiles_give_the_picture_back() -> None:
    assert identity(530)["same"] == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_an_image_goes_through_the_stages_of_the_job(tmp_path: Path, kind: str) -> None:
    found = large_memory.measure(tmp_path, 700, ("noise",), kind, model=False)
    assert found["status"] == "restored" and found["megapixels"] == 0.49
    for stage in ("decode", "restore"):
        assert found[stage]["above_mib"] >= 0 and found[stage]["before_mib"] > 100 and found[stage]["seconds"] > 0
    assert found["file_mib"] == pytest.approx((tmp_path / "in" / f"b-large.{kind}").stat().st_size / 2**20)
    assert len(list((tmp_path / "out" / "images").glob(f"*.{kind}"))) == 2


def test_what_is_held_for_a_moment_counts() -> None:
    with large_memory._peak() as found:
        held = np.ones(2**28, np.uint8)
        large_memory.time.sleep(0.1)
        del held
    assert 200 < found["above_mib"] < 1000
