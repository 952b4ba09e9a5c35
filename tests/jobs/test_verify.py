"""Each kind of difference is found and named; an untouched run has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from fdi_lib.manifest import StorageSettings
from fdi_lib.records import LEDGER
from fdi_lib.storage import ledger
from fdi_lib.storage.store import Store
from jobs import verify
from tests.jobs.finished_run import finished_run, jpeg


def test_untouched_run(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    (tmp_path / "out/.fdi-unfinished").mkdir()
    (tmp_path / "out/.fdi-unfinished/0").write_bytes(b"of a killed writer: nobody's output")
    found = verify.run(output, StorageSettings())
    assert found["found"] == [] and (found["images"], found["rows"], found["differences"]) == (6, 6, 0)


def test_sources_are_hashed_unless_that_is_not_wanted(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    (tmp_path / "in/a/1.jpg").write_bytes(jpeg(7))
    (tmp_path / "in/a/new.jpg").write_bytes(jpeg(1))
    found = verify.run(output, StorageSettings(), source_bytes=False)["found"]
    assert [(one["what"], one["name"]) for one in found] == [("source image without a row", "a/new.jpg")]
    assert len(verify.run(output, StorageSettings())["found"]) == 2


def _drop_row(folder: Path) -> None:
    store = Store.open(str(folder / "out"), StorageSettings())
    rows = [row for row in ledger.load_effective(store).to_pylist() if row["image_id"] != "a/1.jpg"]
    for entry in list(store.walk("ledger/")):
        store.delete(entry.path)
    ledger.write_part(store, pa.Table.from_pylist(rows, schema=LEDGER), 1)
    (folder / "out/images/a/1.jpg").unlink()
    (folder / "out/images/a/1.jpg.json").unlink()


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda f: (f / "out/images/a/1.jpg").write_bytes(b"x"), "output has another size: a/1.jpg"),
        (lambda f: _flip(f / "out/images/a/2.jpg"), "output has another hash: a/2.jpg"),
        (lambda f: (f / "out/images/a/3.jpg").unlink(), "output is missing: a/3.jpg"),
        (lambda f: (f / "out/images/a/3.jpg.json").unlink(), "sidecar is missing: a/3.jpg"),
        (lambda f: (f / "out/images/stray.txt").write_text("?"), "ledger names this file: images/stray.txt"),
        (lambda f: (f / "out/notes.txt").write_text("?"), "no run puts this here: notes.txt"),
        (lambda f: (f / "out/ledger/x.csv").write_text("?"), "no run puts this here: ledger/x.csv"),
        (lambda f: (f / "out/failed/1.jpg.json").write_text("{}"), "no run puts this here: failed/1.jpg.json"),
        (lambda f: (f / "out/failed/b/6.jpg.json").unlink(), "no JSON in failed/: b/6.jpg"),
        (lambda f: (f / "in/a/1.jpg").write_bytes(jpeg(7)), "source changed after its row: a/1.jpg"),
        (lambda f: (f / "in/a/1.jpg").unlink(), "row without a source image: a/1.jpg"),
        (lambda f: (f / "in/a/new.jpg").write_bytes(jpeg(1)), "source image without a row: a/new.jpg"),
        (_drop_row, "source image without a row: a/1.jpg"),
        (lambda f: (f / "out/images/a/1.jpg.json").write_text("{"), "sidecar can't be read: a/1.jpg"),
        (lambda f: _told(f, "output", "sha256", "f" * 64), 'output.sha256 is "ffff'),
        (lambda f: _told(f, "source", "sha256", "f" * 64), 'source.sha256 is "ffff'),
        (lambda f: _told(f, "outcome", "status", "clean"), 'outcome.status is "clean", in the ledger "restored"'),
        (lambda f: _told(f, "classification", "composition", "rain:1.00"), "classification.composition is"),
        (lambda f: _told(f, "restoration", "adapters", [{"name": "rain"}]), "restoration.adapters is"),
    ],
)  # fmt: skip
def test_difference(tmp_path: Path, harm: Callable[[Path], object], expected: str) -> None:
    output = finished_run(tmp_path)
    harm(tmp_path)
    found = verify.run(output, StorageSettings())
    assert found["differences"] == 1, verify.text(found)
    assert expected in verify.text(found)


def test_every_fact_that_a_sidecar_tells_otherwise_is_named(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    _told(tmp_path, "output", "bytes", 1)
    _told(tmp_path, "source", "uri", "/elsewhere")
    found = verify.run(output, StorageSettings())
    assert [(d["name"], d["detail"].partition(" ")[0]) for d in found["found"]] == [
        ("a/1.jpg", "output.bytes"),
        ("a/1.jpg", "source.uri"),
    ]


def _told(folder: Path, section: str, key: str, value: object) -> None:
    path = folder / "out/images/a/1.jpg.json"
    document = json.loads(path.read_text())
    document[section][key] = value
    path.write_text(json.dumps(document))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
