"""Batches come out of their one row as they went in, alone or beside others, through storage too."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fdi_lib.core.batches import pack, unpack
from fdi_lib.records import DECISION, REFERENCE


def rows(count: int, first: int = 0) -> pa.Table:
    """Decision rows with every kind of column filled: lists, maps, nulls, names that aren't ASCII."""
    made = []
    for number in range(first, first + count):
        row = dict.fromkeys(DECISION.names) | {"image_id": f"é/{number}.png", "length": number, "status": ""}
        row |= {"pages": [{"width": 3, "height": number}], "scores": [("noise", 0.5)], "residual": 0.25}
        made.append(row)
    return pa.Table.from_pylist(made, schema=DECISION)


def views(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("chunks", [1, 2])
def test_one_row_holds_a_batch(count: int, chunks: int) -> None:
    table = pa.concat_tables([rows(count), rows(count, 10)][:chunks])
    packed = pack(table, views(count * chunks))
    assert packed.num_rows == 1
    assert {str(kind).partition("<")[0] for kind in packed.schema.types} == {"list", "large_binary"}  # no pickles
    ((found, seen),) = unpack(packed)
    assert found.schema.equals(DECISION) and found.equals(table.combine_chunks())
    np.testing.assert_array_equal(seen, views(count * chunks))
    assert seen.dtype == np.uint8


def test_batches_without_views() -> None:
    packed = pack(rows(3))
    assert packed.column_names == ["rows"]
    ((found, seen),) = unpack(packed)
    assert found.equals(rows(3)) and seen is None
    empty = pack(REFERENCE.empty_table())
    assert [found.schema for found, _ in unpack(empty)] == [REFERENCE]
    assert list(unpack(empty.slice(1))) == []


def test_joined_batches_stay_apart_whatever_the_cut() -> None:
    counts = (2, 0, 3)
    joined = pa.concat_tables([pack(rows(n, 10 * n), views(n, n)) for n in counts])
    for table in (joined, joined.combine_chunks()):
        found = list(unpack(table))
        assert [batch.num_rows for batch, _ in found] == list(counts)
        for n, (batch, seen) in zip(counts, found, strict=True):
            assert batch.equals(rows(n, 10 * n))
            np.testing.assert_array_equal(seen, views(n, n))
    ((last, seen),) = unpack(joined.combine_chunks().slice(2, 1))
    assert last.equals(rows(3, 30))
    np.testing.assert_array_equal(seen, views(3, 3))


def test_a_slice_of_rows_packs_only_itself() -> None:
    ((found, _),) = unpack(pack(rows(6).slice(2, 3)))
    assert found.equals(rows(3, 2))


def test_views_that_are_not_contiguous() -> None:
    turned = views(2).transpose(0, 1, 3, 2, 4)
    ((_, seen),) = unpack(pack(rows(2), turned))
    np.testing.assert_array_equal(seen, turned)


def test_batches_survive_serialization(tmp_path: Path) -> None:
    packed = pack(rows(4), views(4))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, packed.schema) as writer:
        writer.write_table(packed)
    through_ipc = pa.ipc.open_stream(sink.getvalue()).read_all()
    pq.write_table(packed, tmp_path / "b.parquet")
    for table in (through_ipc, pq.read_table(tmp_path / "b.parquet")):
        ((found, seen),) = unpack(table)
        assert found.to_pylist() == rows(4).to_pylist()
        np.testing.assert_array_equal(seen, views(4))


def test_views_are_a_copy() -> None:
    packed = pack(rows(1), views(1))
    ((_, seen),) = unpack(packed)
    assert seen is not None
    seen[:] = 0  # torch warns of arrays that can't be written to
    ((_, again),) = unpack(packed)
    np.testing.assert_array_equal(again, views(1))
