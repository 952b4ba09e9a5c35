"""Views in, decisions out; the views end here.

Rows that already have a status pass through. Does NOT know Ray, storage, or how a decision is carried out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fdi_lib.core.batches import pack, unpack
from fdi_lib.core.decision import Decision
from fdi_lib.records import DECISION, Reason, Status


class ViewClassifier(Protocol):
    """What this stage asks of a classifier."""

    def classify_views(self, views: np.ndarray, shorter_px: Sequence[int]) -> list[Decision]:
        """Return a decision for every image of uint8 B,V,S,S,3, with the shorter side of each."""


class Classify:
    """One classifier, kept loaded.

    Args:
        load: makes the classifier; called once, where the model shall live.
        unknown: what to do with an image unlike anything in the bank: review | keep.
    """

    def __init__(self, load: Callable[[], ViewClassifier], unknown: str) -> None:
        self.classifier, self.unknown = load(), unknown

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the packed batches with their decisions, without views."""
        return pa.concat_tables([pack(self._decide(rows, views)) for rows, views in unpack(table) if views is not None])

    def _decide(self, rows: pa.Table, views: np.ndarray) -> pa.Table:
        started, images = time.perf_counter(), rows.to_pylist()
        shorter_px = [min(image["width"], image["height"]) for image in images if not image["status"]]
        decisions = iter(self.classifier.classify_views(views, shorter_px))
        share = (time.perf_counter() - started) / max(1, len(views))
        decided = [row if row["status"] else row | self._columns(next(decisions), share) for row in images]
        return pa.Table.from_pylist(decided, schema=DECISION)

    def _columns(self, decision: Decision, seconds: float) -> dict[str, Any]:
        status, reason = "", ""
        if decision.verdict == "clean":
            status = Status.CLEAN
        elif decision.verdict == "unknown":
            status, reason = Status.KEPT if self.unknown == "keep" else Status.REVIEW, Reason.UNKNOWN
        elif not decision.adapters:  # all that was found is disabled in the manifest
            status, reason = Status.KEPT, Reason.POLICY
        return {
            "status": status,
            "reason": reason,
            "verdict": decision.verdict,
            "route": "" if status else decision.route,
            "composition": "" if status else decision.composition,
            "scores": sorted(decision.scores.items()),
            "residual": decision.residual,
            "classify_s": seconds,
        }
