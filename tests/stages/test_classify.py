"""Decisions become columns; rows with a status pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from fdi_lib.core.batches import pack, unpack
from fdi_lib.core.decision import Decision
from fdi_lib.records import DECISION
from fdi_lib.stages.classify import Classify
from tests.fakes import SPEC, FakeClassifier


def batch(means: list[int | None]) -> pa.Table:
    """Rows with a mean have views; the others have failed."""
    empty = dict.fromkeys(DECISION.names) | {"scores": [], "pages": [], "route": "", "composition": ""}
    rows = [
        empty
        | {"image_id": str(i), "status": "failed" if m is None else "", "width": m and 100 + i, "height": m and 90}
        for i, m in enumerate(means)
    ]
    views = [np.full((SPEC.count, 16, 16, 3), m, np.uint8) for m in means if m is not None]
    return pack(pa.Table.from_pylist(rows, schema=DECISION), np.stack(views))


def decide(table: pa.Table, unknown: str = "review", load: type[FakeClassifier] = FakeClassifier) -> list[dict]:
    return [row for rows, _ in unpack(Classify(load, unknown)(table)) for row in rows.to_pylist()]


def test_each_verdict_becomes_a_status_or_a_route() -> None:
    rows = decide(batch([20, None, 60, 100, 140, 200]))
    assert [row["status"] for row in rows] == ["clean", "failed", "review", "", "", ""]
    assert [row["route"] for row in rows] == ["", "", "", "noise", "haze>noise", "scratch"]
    assert rows[4]["composition"] == "haze:0.50>noise:1.00"
    assert rows[2]["reason"] == "unknown" and abs(rows[2]["residual"] - 0.9) < 1e-6
    assert decide(batch([60]), unknown="keep")[0]["status"] == "kept"


def test_what_is_found_but_disabled_is_kept_by_policy() -> None:
    class Disabling(FakeClassifier):
        def _decide(self, mean: float) -> Decision:
            return Decision("single")

    row = decide(batch([100]), load=Disabling)[0]
    assert (row["status"], row["reason"], row["verdict"], row["route"]) == ("kept", "policy", "single", "")


def test_the_classifier_is_told_the_shorter_side_of_each_image_it_sees() -> None:
    class Noting(FakeClassifier):
        told: ClassVar[list[int]] = []

        def classify_views(self, views: np.ndarray, shorter_px: Sequence[int]) -> list[Decision]:
            self.told.extend(shorter_px)
            return super().classify_views(views, shorter_px)

    table = batch([20, None, 60])
    rows, views = next(unpack(table))
    changed = rows.to_pylist()
    changed[2]["width"] = 70
    decide(pack(pa.Table.from_pylist(changed, schema=DECISION), views), load=Noting)
    assert Noting.told == [90, 70]
