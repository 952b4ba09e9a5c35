"""Progress from the output alone."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fdi_lib.errors import RunConflictError
from fdi_lib.manifest import StorageSettings
from jobs import status
from tests.jobs.finished_run import finished_run


def test_finished_run(tmp_path: Path) -> None:
    found = status.run(finished_run(tmp_path), StorageSettings())
    assert found["images"] == 6 and found["restored"] == 2 and found["failed"] == 1 and found["progress"] == 1.0
    assert found["reasons"] == {"unsupported_pixels": 1, "unknown": 1, "empty_file": 1}
    assert "finished 20" in status.text(found) and "restored          2" in status.text(found).replace("  ", "  ")


def test_running_run_estimates_from_bytes(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    path = Path(output, "run.json")
    info = json.loads(path.read_text())
    done = info["listing"]["bytes"]
    info |= {"finished": None, "listing": {**info["listing"], "bytes": 4 * done}}
    path.write_text(json.dumps(info))
    now = datetime.fromisoformat(info["opened"]) + timedelta(seconds=60)
    found = status.run(output, StorageSettings(), now)
    assert found["progress"] == pytest.approx(0.25) and found["eta_s"] == pytest.approx(180)
    assert found["images_per_s"] == pytest.approx(0.1)
    assert "25% of the bytes, about 3 min left" in status.text(found)
    info |= {"listing": None}
    path.write_text(json.dumps(info))
    assert status.run(output, StorageSettings(), now)["eta_s"] is None


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunConflictError):
        status.run(str(tmp_path), StorageSettings())
