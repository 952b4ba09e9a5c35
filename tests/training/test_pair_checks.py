"""Each kind of bad pair is left out with its reason; several damages of one picture stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data

from fdi_lib.core.degrade import degrade
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.pairs import PairRef, Unpaired
from fdi_lib.storage.store import Store
from fdi_lib.training.pair_checks import COLUMNS, accepted, check_pairs, report_unpaired, table
from fdi_lib.training.pairs import gather, group_of
from tests.storage.pictures import bare

LOCAL = StorageSettings()


def crop(number: int, side: int = 192) -> np.ndarray:
    pixels = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())[number % 3]
    y, x = 4 + 17 * number % 120, 10 + 29 * number % 250
    return pixels[y : y + side, x : x + side]


def noisy(pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    out = degrade("noise", pixels.astype(np.float32) / 255, np.random.default_rng(seed), 0.3)
    return np.rint(out * 255).astype(np.uint8)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    clean = [crop(i) for i in range(9)]
    found = {f"good{i}": (noisy(clean[i], i), clean[i]) for i in range(8)}
    found |= {
        "x-duplicate": found["good0"],
        "x-identical": (clean[8], clean[8]),
        "x-moved": (noisy(crop(0)[:150, 4:154]), crop(0)[:150, :150]),
        "x-other": (noisy(clean[1]), clean[2]),
        "x-size": (noisy(clean[8])[:, :-2], clean[8]),
        "x-small": (noisy(clean[8])[:40, :40], clean[8][:40, :40]),
        "y-dark": (noisy(clean[8]) // 4, clean[8]),
        "y-again": (noisy(clean[3], 99), clean[3]),
    }
    for name, sides in found.items():
        for side, pixels in zip(("degraded", "clean"), sides, strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / f"{name}.png").write_bytes(bare("png", np.ascontiguousarray(pixels)))
    (tmp_path / "degraded" / "x-broken.png").write_bytes(bare("png", noisy(clean[8]))[:900])
    (tmp_path / "clean" / "x-broken.png").write_bytes(bare("png", clean[8]))
    return found


def test_bad_pairs_are_left_out_with_their_reasons(pairs, tmp_path):
    refs, _ = gather(str(tmp_path), "pairs", LOCAL)
    reports = check_pairs(Store.open(str(tmp_path), LOCAL), refs, crop_px=64)
    found = {report.name: report for report in reports}
    reasons = {report.name: report.reasons[0] for report in reports if not report.ok}
    expected = {
        "x-broken": "degraded: truncated",
        "x-duplicate": "duplicate of good0",
        "x-identical": "identical",
        "x-moved": "misaligned by ",
        "x-other": "different pictures",
        "x-size": "sizes differ: degraded 190 x 192 px, clean 192 x 192 px",
        "x-small": "smaller than a crop: 40 x 40 px, a crop has 64",
    }
    assert set(reasons) == set(expected)
    assert all(reasons[name].startswith(start) for name, start in expected.items()), reasons
    assert found["x-moved"].shift_px == pytest.approx((0, -4), abs=0.3)
    assert found["y-dark"].ok and "exposure shift of -2" in found["y-dark"].remarks[0]
    assert found["y-again"].remarks == ("same clean picture as good3",)
    assert found["good1"].remarks == () and found["good1"].psnr_db > 15

    kept = accepted(refs, reports, str(tmp_path))
    assert {ref.name for ref in kept} == set(pairs) - set(expected)
    assert {group_of(ref) for ref in kept if ref.name in ("good3", "y-again")} == {"good3"}

    lines = [line.split("\t") for line in table([*reports, *report_unpaired([Unpaired("u", "alone")])]).splitlines()]
    assert {len(line) for line in lines} == {len(COLUMNS)} and lines[0][:3] == ["name", "status", "reasons"]
    assert lines[-1][:3] == ["u", "left_out", "alone"]
    assert sum(line[1] == "ok" for line in lines) == len(kept)


def test_too_few_that_are_left_are_refused(pairs, tmp_path):
    refs = [ref for ref in gather(str(tmp_path), "pairs", LOCAL)[0] if ref.name[0] == "x"]
    assert all(isinstance(ref, PairRef) for ref in refs)
    reports = check_pairs(Store.open(str(tmp_path), LOCAL), refs, crop_px=64)
    with pytest.raises(ManifestError, match=r"needed \(6 left out, the first: x-broken: degraded"):
        accepted(refs, reports, str(tmp_path))
