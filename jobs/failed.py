"""``fdi failed``: the images that failed or wait for a person, and why, read from the ledger.

Does NOT know how to run them again (``fdi retry``).
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import StorageSettings
from fdi_lib.records import Reason, Status
from fdi_lib.storage import ledger
from fdi_lib.storage.run import load_run_at

_COLUMNS = ["image_id", "status", "reason", "detail", "attempt"]


def run(output: str, storage: StorageSettings, reason: str | None = None) -> dict[str, Any]:
    """The failed and review rows of the run at ``output``, sorted by status, reason and name.

    Returns:
        ``output, failed, review, reasons, rows``: each row ``image_id, status, reason, detail, attempt``.

    Raises:
        RunConflictError: no run there.
        ManifestError: ``reason`` isn't one of :class:`fdi_lib.records.Reason`.
    """
    known = [r.value for r in Reason if r.value]
    if reason is not None and reason not in known:
        raise ManifestError(
            "no such reason",
            key="--reason",
            value=reason,
            file="command line",
            remedy=f"use one of: {', '.join(known)}",
        )
    found = load_run_at(output, storage)
    order = [("status", "ascending"), ("reason", "ascending"), ("image_id", "ascending")]
    rows = ledger.failed(found.store, reason).select(_COLUMNS).sort_by(order).to_pylist()
    statuses = Counter(row["status"] for row in rows)
    return {
        "output": found.store.uri(),
        "failed": statuses[Status.FAILED],
        "review": statuses[Status.REVIEW],
        "reasons": dict(Counter(row["reason"] for row in rows).most_common()),
        "rows": rows,
    }


def text(summary: dict[str, Any]) -> str:
    """The rows as an aligned table."""
    rows = [[printable(str(row[c])) for c in _COLUMNS[1:3]] + [printable(row["image_id"])] for row in summary["rows"]]
    if not rows:
        return f"{summary['output']}: nothing failed, nothing waits for review"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, source in zip(rows, summary["rows"], strict=True):
        cells = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append(f"{cells}  {printable(source['detail'] or '')}".rstrip())
    lines.append(f"{summary['failed']:,} failed, {summary['review']:,} wait for review")
    return "\n".join(lines)


def printable(text: str) -> str:
    """``text`` with control and direction characters written out: a file name must not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["failed", *sys.argv[1:]]))
