"""Progress from the output alone."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fdi_lib.errors import RunConflictError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.lease import Generation, held
from fdi_lib.storage.store import Store
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


def test_a_holder_that_is_gone_is_not_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = finished_run(tmp_path)
    path = Path(output, "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": None}))
    store = Store.open(output, StorageSettings())
    with held(store, lambda: None):
        found = status.run(output, StorageSettings())
        assert found["job"].startswith(f"process {os.getpid()} on ") and found["interrupted"] == ""
        assert "held by process" in status.text(found) and " left" in status.text(found)
        monkeypatch.setattr(Generation, "is_gone", True)
        found = status.run(output, StorageSettings())
        path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": "2026-01-01T00:00:00+00:00"}))
        ended = status.run(output, StorageSettings())
    assert ended["job"] == ended["interrupted"] == "", "it was done before its process ended"
    assert found["job"] == "" and found["interrupted"].startswith(f"process {os.getpid()} on ")
    assert "is gone); run again" in status.text(found) and " left" not in status.text(found)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunConflictError):
        status.run(str(tmp_path), StorageSettings())
