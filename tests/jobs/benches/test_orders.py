"""Orders are compared on the calibration split; a restorer whose order matters shows in the figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvips

from fdi_lib.core.decision import Decision, Restored
from fdi_lib.core.protocol import Sample, Tile
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import EvaluateManifest
from jobs.benches import orders
from jobs.benches.orders import ORDERS, bench, compare


class FakeRestorer:
    """``haze`` doubles, ``noise`` takes 20 away: only noise before haze is right. Looking again stops after a step."""

    adapter_hashes = {"haze": "0" * 64, "noise": "1" * 64}  # noqa: RUF012

    def __init__(self, redetect: bool) -> None:
        self.redetect = redetect

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        return [Decision("single", (("noise", 1.0),)) for _ in images]

    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[Restored]:
        assert noise_keys is not None and len(noise_keys) == len(images) == len(decisions)
        return [self._restored(image, decision) for image, decision in zip(images, decisions, strict=True)]

    def _restored(self, image: np.ndarray, decision: Decision) -> Restored:
        done = replace(decision, adapters=decision.adapters[:1] if self.redetect else decision.adapters)
        out = image.astype(int)
        for name, _ in done.adapters:
            out = out * 2 if name == "haze" else out - 20
        return Restored(np.clip(out, 0, 255).astype(np.uint8), done)


def psnr(error: float) -> float:
    return float(20 * np.log10(255 / error))


def test_each_order_is_scored() -> None:
    shape = (16, 16, 3)
    # 100 halved and 20 added is 70; less 20 and doubled it is 100 again.
    samples = [Sample(("haze", "noise"), Tile("p", 0, np.full(shape, 100, np.uint8)), np.full(shape, 70, np.uint8), 5)]
    figures = compare(samples, FakeRestorer(False), FakeRestorer(True))
    assert figures["n"] == 1 and figures["psnr_in"] == pytest.approx(psnr(30))
    assert figures["reverse"] == 100  # identical: the cap
    assert figures["damage"] == pytest.approx(psnr(20))
    assert figures["best_single"] == pytest.approx(psnr(40))  # haze alone: 140; noise alone: 50
    assert figures["redetected"] == figures["found"] == figures["found_redetected"] == pytest.approx(psnr(50))
    assert (figures["steps_redetected"], figures["steps_found"]) == (1, 1)


def test_what_is_not_finite_stays_as_it_was() -> None:
    class Diverging(FakeRestorer):
        def _restored(self, image: np.ndarray, decision: Decision) -> Restored:
            return Restored(None, decision, 0.0)

    shape = (16, 16, 3)
    samples = [Sample(("haze", "noise"), Tile("p", 0, np.full(shape, 100, np.uint8)), np.full(shape, 70, np.uint8), 5)]
    figures = compare(samples, Diverging(False), Diverging(True))
    assert {figures[order] for order in ORDERS} == {figures["psnr_in"]}


def test_bench_uses_calibration_pictures_and_writes_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["picture\tgroup_id\tkind\tsource_repository\tlicence\tsha256\tsplit"]
    for i, split in enumerate(("calibration", "test")):
        ramp = np.linspace(70, 250, 256)[:, None, None] * np.ones((1, 256, 3))
        data = pyvips.Image.new_from_array(ramp.astype(np.uint8)).jpegsave_buffer(Q=98)
        (tmp_path / f"{i}.jpg").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest() if split == "calibration" else "0" * 64  # a test picture isn't read
        rows.append(f"{i}.jpg\tg{i}\tphoto\there\tCC0\t{digest}\t{split}")
    (tmp_path / "list.tsv").write_text("\n".join(rows))
    settings = {"uri": str(tmp_path), "pictures": str(tmp_path / "list.tsv"), "tile_px": 64, "tiles_per_mixture": 3}
    output = tmp_path.parent / "out-orders"
    wanted = EvaluateManifest.model_validate({
        "kind": "evaluate", "data": settings | {"degradations": ["noise", "haze", "jpeg"]}, "output": str(output),
    })  # fmt: skip
    result = bench(wanted, FakeRestorer)
    assert list(result["mixtures"]) == ["haze+noise"] and result["mixtures"]["haze+noise"]["n"] == 3
    assert json.loads((output / "orders.json").read_text()) == result
    shown = capsys.readouterr().out
    assert "haze+noise" in shown and all(meaning in shown for meaning in orders._MEANING.values())
    alone = wanted.model_copy(update={"data": wanted.data.model_copy(update={"degradations": ("noise", "jpeg")})})
    with pytest.raises(ManifestError, match=r"two of the degradations; name two of: haze, noise"):
        bench(alone, FakeRestorer)
