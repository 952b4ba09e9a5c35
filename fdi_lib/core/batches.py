"""One table row that holds a batch: what passes from decoding to classification, and on to the router.

Ray Data joins or splits blocks by size; a row is never split, so a batch stays what its maker made it. Rows travel as
one list of structs, views as plain bytes: no column ever falls back to pickled objects. Does NOT know Ray, nor what a
column means.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa


def pack(rows: pa.Table, views: np.ndarray | None = None) -> pa.Table:
    """Make a table of one row.

    Args:
        rows: any rows.
        views: uint8 array of any shape (B,V,S,S,3 for the classifier), or None.
    """
    structs = rows.to_struct_array()
    structs = structs.combine_chunks() if isinstance(structs, pa.ChunkedArray) else structs
    if isinstance(structs, pa.ChunkedArray):  # no chunk at all
        structs = pa.array([], pa.struct(list(rows.schema)))
    columns: dict[str, pa.Array] = {"rows": pa.ListArray.from_arrays(pa.array([0, len(structs)], pa.int32()), structs)}
    if views is not None:
        columns["views"] = pa.array([views.tobytes()], pa.large_binary())
        columns["shape"] = pa.array([list(views.shape)], pa.list_(pa.int64()))
    return pa.table(columns)


def unpack(table: pa.Table) -> Iterator[tuple[pa.Table, np.ndarray | None]]:
    """Yield rows and views (uint8, a writable copy, or None) of every batch in a table."""
    for index in range(table.num_rows):
        rows = pa.Table.from_struct_array(table["rows"][index].values)
        if "views" not in table.column_names:
            yield rows, None
            continue
        flat = np.frombuffer(table["views"][index].as_buffer(), np.uint8)
        yield rows, flat.reshape(table["shape"][index].as_py())
