"""Parts, effective rows and the index of done images."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdi_lib.errors import StorageRefusedError
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.records import LEDGER, SCHEMA_VERSION
from fdi_lib.storage import ledger
from fdi_lib.storage.store import Store


def row(image_id: str, status: str = "restored", attempt: int = 1, **more: Any) -> dict[str, Any]:
    empty = {
        field.name: {pa.string(): ""}.get(field.type, [] if pa.types.is_nested(field.type) else 0) for field in LEDGER
    }
    known = {"schema_version": SCHEMA_VERSION, "image_id": image_id, "status": status, "attempt": attempt}
    return empty | known | more


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LEDGER)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path), StorageSettings())


def test_an_empty_ledger(store: Store) -> None:
    assert list(ledger.scan(store)) == []
    assert ledger.load_effective(store).schema == LEDGER
    assert set(ledger.counts(store).values()) == {0}
    assert ledger.failed(store).num_rows == 0
    assert not ledger.is_done(ledger.done_index(store), ["a"]).any()
    assert ledger.is_done(ledger.done_index(store), []).shape == (0,)


def test_a_part_is_written_once_under_a_name_of_its_ids_and_attempt(store: Store) -> None:
    rows = [row("a", scores={"noise": 0.5}, adapters=[{"name": "noise", "weight": 1.0, "sha256": "x"}]), row("b")]
    path = ledger.write_part(store, table(*rows), 1)
    assert path is not None
    assert path.startswith("ledger/")
    assert ledger.write_part(store, table(*reversed(rows)), 1) is None
    assert ledger.write_part(store, table(row("a", attempt=2), row("b", attempt=2)), 2) not in (None, path)
    assert ledger.write_part(store, table(row("a")), 1) is not None
    first = next(part for part in ledger.scan(store) if part.num_rows == 2 and part["attempt"][0].as_py() == 1)
    assert first.schema == LEDGER
    assert dict(first["scores"][0].as_py()) == {"noise": 0.5}


def test_the_attempt_must_be_the_rows_own(store: Store) -> None:
    with pytest.raises(AssertionError):
        ledger.write_part(store, table(row("a", attempt=2)), 1)


def test_the_highest_attempt_counts_and_duplicates_count_once(store: Store) -> None:
    ledger.write_part(store, table(row("a", "failed", reason="truncated"), row("b"), row("c", "review")), 1)
    ledger.write_part(store, table(row("b"), row("d", "clean")), 1)
    ledger.write_part(store, table(row("a", "restored", 2)), 2)
    found = ledger.load_effective(store)
    assert found["image_id"].to_pylist() == ["a", "b", "c", "d"]
    assert found["status"].to_pylist() == ["restored", "restored", "review", "clean"]
    assert ledger.counts(store) == {"restored": 2, "clean": 1, "kept": 0, "review": 1, "failed": 0}
    assert ledger.failed(store)["image_id"].to_pylist() == ["c"]
    assert ledger.failed(store, "truncated").num_rows == 0
    assert ledger.load_effective(store, ["status", "attempt"]).to_pylist()[0] == {"status": "restored", "attempt": 2}


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(1, 3), st.sampled_from(["failed", "clean"]), st.sampled_from("xy")
        )
    )
)
def test_effective_does_not_depend_on_order_or_columns(rows: list[tuple[str, int, str, str]]) -> None:
    made = [
        row(i, status, attempt, output_sha256=sha, worker=str(n)) for n, (i, attempt, status, sha) in enumerate(rows)
    ]
    found = ledger.effective(table(*made)).to_pylist()
    shuffled = random.Random(0).sample(made, len(made))
    assert ledger.effective(table(*shuffled)).to_pylist() == found
    assert [r["image_id"] for r in found] == sorted({r["image_id"] for r in made})
    for chosen in found:
        assert chosen["attempt"] == max(r["attempt"] for r in made if r["image_id"] == chosen["image_id"])


def test_what_was_delivered_counts_before_a_failure_of_the_same_attempt() -> None:
    rows = [row("a", "failed", reason="worker_died"), row("a", "restored", output_sha256="f" * 64)]
    assert ledger.effective(table(*rows))["status"].to_pylist() == ["restored"]


def test_effective_of_many_chunks() -> None:
    parts = [table(row(f"{n:03d}"), row(f"{n + 1:03d}")) for n in range(50)]
    assert ledger.effective(pa.concat_tables(parts))["image_id"].to_pylist() == [f"{n:03d}" for n in range(51)]


def test_everything_in_a_part_is_done(store: Store) -> None:
    names = [f"box/{n}.tif" for n in range(500)]
    for start in range(0, 400, 100):
        ledger.write_part(store, table(*(row(name, "failed") for name in names[start : start + 100])), 1)
    ledger.write_part(store, table(row(names[0], attempt=2)), 2)
    index = ledger.done_index(store)
    assert index.shape == (2, 400)
    assert index.nbytes == 16 * 400
    assert ledger.is_done(index, names).tolist() == [True] * 400 + [False] * 100
    key = ledger.image_key(names[0])
    assert len(key) == 16
    assert key in {int(a).to_bytes(8, "big") + int(b).to_bytes(8, "big") for a, b in index.T}


def test_keys_that_share_their_first_half_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"a": (7, 1), "b": (7, 3), "c": (7, 2), "d": (8, 1)}
    monkeypatch.setattr(ledger, "image_key", lambda i: b"".join(n.to_bytes(8, "big") for n in keys[i]))
    index = np.array([[7, 7, 9], [1, 3, 1]], dtype=np.uint64)
    assert ledger.is_done(index, ["a", "b", "c", "d"]).tolist() == [True, True, False, False]


def test_a_scan_meets_a_compaction(store: Store) -> None:
    """The merged part appears, and the old ones go, after the scan has begun."""
    for name in ("a", "b", "c"):
        ledger.write_part(store, table(row(name)), 1)
    scan = ledger.scan(store, ["image_id", "attempt"])
    seen = [next(scan)]
    old = [entry.path for entry in store.walk("ledger/")]
    ledger.write_part(store, table(row("a"), row("b"), row("c")), 1)
    for path in old:
        store.delete(path)
    seen += scan
    assert ledger.effective(pa.concat_tables(seen))["image_id"].to_pylist() == ["a", "b", "c"]


def many_parts(store: Store) -> pa.Table:
    """40 parts with retried, doubled and single rows; returns what counts."""
    for n in range(30):
        ledger.write_part(store, table(row(f"{n:02d}", "failed", seconds=1.0), row(f"{n:02d}x")), 1)
    for n in range(5):
        ledger.write_part(store, table(row(f"{n:02d}", "restored", 2)), 2)
        ledger.write_part(store, table(row(f"{n:02d}x"), row(f"{n:02d}y")), 1)  # a unit that ran twice
    return ledger.load_effective(store)


def all_rows(store: Store) -> list[tuple[str, int]]:
    parts = pa.concat_tables(ledger.scan(store, ["image_id", "attempt"]))
    return sorted({(r["image_id"], r["attempt"]) for r in parts.to_pylist()})


def test_a_compaction_keeps_what_counts_and_every_attempt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = many_parts(store)
    attempts = all_rows(store)
    assert ledger.compact(store) == 0 and ledger.compact(store, least=41) == 0
    monkeypatch.setattr(ledger, "MERGED_PARTS", 15)
    assert ledger.compact(store, least=10) == 40
    names = [entry.path for entry in store.walk("ledger/")]
    assert len(names) == 3 and all(name.startswith("ledger/merged-") for name in names)
    assert ledger.load_effective(store).equals(before) and all_rows(store) == attempts
    many_parts(store)  # units that run again after their parts were merged away
    assert ledger.load_effective(store).equals(before)
    assert ledger.compact(store, least=10) == 43
    assert ledger.load_effective(store).equals(before) and all_rows(store) == attempts


@pytest.mark.parametrize("killed_at", range(6))
def test_a_compaction_that_is_killed_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    before, left = many_parts(store), [killed_at]
    monkeypatch.setattr(ledger, "MERGED_PARTS", 3)
    real = {name: getattr(store, name) for name in ("create", "delete")}

    def counted(name: str) -> Any:
        def call(*args: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real[name](*args)

        return call

    for name in real:
        monkeypatch.setattr(store, name, counted(name))
    with pytest.raises(KeyboardInterrupt):
        ledger.compact(store, least=10)
    assert ledger.load_effective(store).equals(before)
    left[0] = 10**6
    ledger.compact(store, least=2)
    assert ledger.load_effective(store).equals(before)


def test_a_compaction_deletes_nothing_that_it_could_not_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = many_parts(store)
    real = store.create
    monkeypatch.setattr(store, "create", lambda path, data: real(path, ledger._encoded(table(row("other")))) and False)
    with pytest.raises(StorageRefusedError, match="not what its parts hold"):
        ledger.compact(store, least=10)
    assert set(before["image_id"].to_pylist()) <= set(ledger.load_effective(store)["image_id"].to_pylist())


def test_a_broken_part_is_named(store: Store) -> None:
    store.create("ledger/x.parquet", b"PAR1")
    with pytest.raises(StorageRefusedError, match=r"ledger/x\.parquet: broken"):
        ledger.counts(store)
