"""The demo's bookkeeping, with a job that knows the truth in the restorer's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import LEDGER
from fdi_lib.storage import ledger
from fdi_lib.storage.store import Store
from jobs import demo
from jobs.demo_archive import Amounts, make_archive

FEW = Amounts(single=2, mixture=1, clean=3)


def cheating_job(root: Path) -> Any:
    """Return a job that gives every noisy image its reference, fails the broken and misses the rest."""

    def restore(manifest: RestoreManifest) -> dict[str, Any]:
        assert manifest.source.uri == str(root / "archive")
        rows = []
        for truth in make_archive(root, FEW):
            row: dict[str, Any] = {f.name: None for f in LEDGER}
            row |= {"image_id": truth.image_id, "attempt": 1, "route": "", "verdict": "clean", "status": "clean"}
            row |= {"reason": "", "output_uri": "", "schema_version": 1}
            if truth.broken:
                row |= {"status": "failed", "reason": truth.broken, "verdict": ""}
            elif truth.applied == "noise" and not truth.image_id.endswith(".tif"):
                row |= {"status": "restored", "verdict": "single", "route": "noise"}
                row |= {"output_uri": str(root / truth.reference)}
            rows.append(row)
        store = Store.open(manifest.output.uri, manifest.output.storage)
        ledger.write_part(store, pa.Table.from_pylist(rows, LEDGER), 1)
        return {
            "images": len(rows),
            "restored": 2,
            "clean": 15,
            "kept": 0,
            "review": 0,
            "failed": 3,
            "already_done": 0,
        }

    return restore


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = demo.demonstrate(str(tmp_path), cheating_job(tmp_path), FEW)
    assert result["images"] == FEW.images == 20 and result["failed"] == 3
    assert result["applied_found"]["noise"] == {"clean": 1, "noise": 2}
    assert result["applied_found"]["haze+noise"] == {"clean": 1}
    assert result["applied_found"]["broken"] == {"failed": 3}
    assert result["applied_found"]["clean"] == {"clean": 3}
    noise, haze = result["degradations"]["noise"], result["degradations"]["haze"]
    assert noise["n"] == 3 and noise["psnr_out"] > 60 and noise["psnr_in"] < 30
    assert haze["psnr_out"] == haze["psnr_in"] and haze["ssim_out"] == haze["ssim_in"]
    assert set(result["degradations"]) >= {"noise", "jpeg", "haze", "low_light", "scratch", "haze>noise"}
    assert result["report"] == str(tmp_path / "restored" / "report" / "index.html")
    printed = capsys.readouterr().out
    assert "2 restored" in printed and "3 failed" in printed and "report: " in printed
    lines = (tmp_path / "found.tsv").read_text().splitlines()
    assert len(lines) == 21


def test_label_is_a_set() -> None:
    row = {"route": "noise>haze", "verdict": "mixture", "status": "restored"}
    assert demo.label(row) == "haze+noise"
    assert demo.label({"route": "", "verdict": "unknown", "status": "review"}) == "unknown"
    assert demo.label({"route": "", "verdict": "", "status": "failed"}) == "failed"
