"""Features of pairs to moments on Ray Data: tasks reduce many units to one part, and parts merge to the whole.

Both sides of a split go through together. Does NOT know where features come from (``pair_stream.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from fdi_lib.core.moments import PairMoments, merged
from fdi_lib.training.pair_checks import PairReport

_GIB = 2**30
_TEXTS = pa.list_(pa.string())
REPORT = pa.schema([
    ("name", pa.string()), ("reasons", _TEXTS), ("remarks", _TEXTS), ("width", pa.int32()), ("height", pa.int32()),
    ("shift_px", pa.list_(pa.float64())), ("exposure_ev", pa.float64()), ("psnr_db", pa.float64()),
    ("degraded_hash", pa.string()), ("clean_hash", pa.string()), ("group", pa.string()),
])  # fmt: skip
# Features of a unit's pairs on one side of the split: names of the kept ones, float32 N,D of degraded and of clean,
# float64 T,E sum of token differences, both shapes, and the reports of all of them.
FEATURES = pa.schema([
    ("held_out", pa.bool_()), ("names", _TEXTS),
    ("clean", pa.large_binary()), ("degraded", pa.large_binary()), ("tokens", pa.large_binary()),
    ("shape", pa.list_(pa.int64())), ("reports", pa.list_(pa.struct(list(REPORT)))),
])  # fmt: skip
_PART = pa.schema([("moments", pa.list_(pa.large_binary())), FEATURES.field("reports")])


@dataclass(frozen=True)
class Split:
    """Moments of both sides of a split; None for a side without pairs."""

    learnt: PairMoments | None = None
    held_out: PairMoments | None = None

    def merge(self, other: Split) -> Split:
        """Both parts together."""
        sides = (self.learnt, other.learnt), (self.held_out, other.held_out)
        return Split(*(merged(part for part in side if part is not None) for side in sides))


def parts(
    features: ray.data.Dataset,
    part_units: int,
    sample: int,
    seed: int,
    on_reports: Callable[[list[PairReport]], None] = lambda reports: None,
) -> Iterator[Split]:
    """Reduce rows of ``FEATURES`` to parts, each of ``part_units`` rows, as they come.

    Args:
        features: rows of ``FEATURES``.
        part_units: rows of a part, whose size doesn't grow with them.
        sample: pairs kept as features at most, on each side.
        seed: key of the sample.
        on_reports: is given the reports of every part.
    """
    reduced = features.map_batches(
        partial(_reduce, sample=sample, seed=seed),
        batch_size=part_units,
        batch_format="pyarrow",
        num_cpus=1,
        memory=_GIB,  # other needs than the stage before: or they would be one
    )
    for table in reduced.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in table.to_pylist():
            on_reports([report_of(found) for found in row["reports"]])
            yield Split(*(PairMoments.from_bytes(data) if data else None for data in row["moments"]))


def features_row(
    names: list[str], q: list[np.ndarray], token_sum_TE: np.ndarray, reports: list[Any], *, held_out: bool = False
) -> dict[str, Any]:
    """A row of ``FEATURES``; ``q`` holds float32 pooled features, degraded and clean in turn."""
    both = np.concatenate(q).astype(np.float32, copy=False)
    return {
        "held_out": held_out,
        "names": names,
        "clean": both[1::2].tobytes(),
        "degraded": both[0::2].tobytes(),
        "tokens": np.asarray(token_sum_TE, np.float64).tobytes(),
        "shape": [len(names), both.shape[1], *token_sum_TE.shape],
        "reports": reports,
    }


def _reduce(table: pa.Table, sample: int, seed: int) -> pa.Table:
    """Rows of ``FEATURES`` to one part: what is learnt, then what is held out."""
    held = table["held_out"].to_numpy()
    moments = [_moments(table.filter(pa.array(held == side)), sample, seed) for side in (False, True)]
    reports = [found for i in range(table.num_rows) for found in table["reports"][i].as_py()]
    return pa.Table.from_pylist([{"moments": moments, "reports": reports}], _PART)


def _moments(table: pa.Table, sample: int, seed: int) -> bytes:
    """Moments of rows of ``FEATURES``, empty for no pair. All rows at once: one product of matrices instead of many."""
    names: list[str] = []
    clean, degraded, tokens = [], [], []
    for i in range(table.num_rows):
        shape = table["shape"][i].as_py()
        if shape:
            names += table["names"][i].as_py()
            clean.append(np.frombuffer(table["clean"][i].as_buffer(), np.float32).reshape(shape[:2]))
            degraded.append(np.frombuffer(table["degraded"][i].as_buffer(), np.float32).reshape(shape[:2]))
            tokens.append(np.frombuffer(table["tokens"][i].as_buffer(), np.float64).reshape(shape[2:]))
    if not names:
        return b""
    both = np.concatenate(clean), np.concatenate(degraded)
    return PairMoments.of(names, *both, np.sum(tokens, axis=0), sample, seed).to_bytes()


def report_of(row: dict[str, Any]) -> PairReport:
    """A report from its row of ``REPORT``."""
    shift = row["shift_px"]
    report = PairReport(**(row | {"shift_px": None}))
    return replace(
        report,
        reasons=tuple(report.reasons),
        remarks=tuple(report.remarks),
        shift_px=None if shift is None else (shift[0], shift[1]),
    )
