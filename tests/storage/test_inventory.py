"""What the rows of an inventory say: read in every format, refused with their line where they make no sense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fdi_lib.errors import ManifestError, StorageRefusedError
from fdi_lib.manifest import SourceSettings, StorageSettings
from fdi_lib.storage import inventory
from fdi_lib.storage.inventory import check_inventory, facts, inventory_entries, inventory_rows
from fdi_lib.storage.sources import list_objects, read_images
from fdi_lib.storage.store import Store

DIGEST = "0123456789abcdef" * 4
ROWS: list[dict[str, Any]] = [
    {"uri": "a.png", "sha256": DIGEST.upper(), "adapter": "noise", "priority": 1},
    {"uri": "b.png", "sha256": None, "adapter": None, "priority": None},
    {"uri": "c.png", "sha256": "", "adapter": "haze", "priority": 2.5},
]


def written(folder: Path, form: str, rows: list[dict[str, Any]]) -> Store:
    path = folder / f"list.{form}"
    if form == "csv":
        text = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(text))
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return Store.open(str(path), StorageSettings())


@pytest.fixture(params=["csv", "jsonl", "parquet"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_rows(tmp_path: Path, form: str) -> None:
    found = list(inventory_rows(written(tmp_path, form, ROWS)))
    assert [row.line for row in found] == ([2, 3, 4] if form == "csv" else [1, 2, 3])
    assert [(Path(row.uri).name, *row[2:]) for row in found] == [
        ("a.png", DIGEST, "noise", 1.0),
        ("b.png", "", "", 0.0),
        ("c.png", "", "haze", 2.5),
    ]


def test_entries_go_by_priority_and_carry_what_their_rows_say(tmp_path: Path, form: str) -> None:
    entries = list(inventory_entries(written(tmp_path, form, ROWS)))
    assert [Path(entry.path).name for entry in entries] == ["c.png", "a.png", "b.png"]
    assert [dict(facts(entry)) for entry in entries] == [
        {"adapter": "haze"},
        {"sha256": DIGEST, "adapter": "noise"},
        {},
    ]


def test_priority_reaches_as_far_as_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_WINDOW", 2)
    rows = [{"uri": f"{n}.png", "priority": p} for n, p in enumerate([0, 0, 1, 0, 5])]
    entries = inventory_entries(written(tmp_path, "csv", rows))
    assert [Path(entry.path).name for entry in entries] == ["2.png", "0.png", "4.png", "1.png", "3.png"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"sha256": "abc"}, "sha256 = 'abc': not a SHA-256"),
        ({"priority": "soon"}, "priority = 'soon': not a number"),
        ({"priority": "nan"}, "not a number"),
        ({"adapter": "mould"}, "adapter = 'mould': no such adapter; use one of: haze, noise"),
    ],
)
def test_mistakes_name_row_value_and_remedy(tmp_path: Path, wrong: dict[str, Any], expected: str) -> None:
    store = written(tmp_path, "csv", [ROWS[0], ROWS[1] | wrong])
    with pytest.raises(ManifestError) as refused:
        check_inventory(store, {"noise", "haze"})
    assert "list.csv:3: " in str(refused.value) and expected in str(refused.value)


def test_a_sound_inventory_passes(tmp_path: Path, form: str) -> None:
    check_inventory(written(tmp_path, form, ROWS), {"noise", "haze"})


def test_an_inventory_stays_in_one_store(tmp_path: Path) -> None:
    store = written(tmp_path, "csv", [{"uri": "s3://bucket/x.png"}])
    source = SourceSettings(uri=str(tmp_path / "list.csv"), format="inventory")
    with pytest.raises(StorageRefusedError, match="one store"):
        [list(read_images(store, source, entry)) for block in list_objects(source, 9) for entry in block]


def test_an_inventory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        list(list_objects(SourceSettings(uri=str(tmp_path / "a.csv"), format="inventory"), 10))
