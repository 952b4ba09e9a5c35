"""``fdi status``: how far a run is, read from its output alone (``run.json``, the ledger, the lease).

Does NOT know Ray, nor the job's processes beyond what their lease says.
"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from fdi_lib.manifest import StorageSettings
from fdi_lib.records import Status
from fdi_lib.storage import ledger
from fdi_lib.storage.lease import newest
from fdi_lib.storage.run import load_run_at, read_listing


def run(output: str, storage: StorageSettings, now: datetime | None = None) -> dict[str, Any]:
    """Counts and speed of the run at ``output``.

    Args:
        output: URI of the run's output.
        storage: how to reach it.
        now: the present moment; the clock's by default.

    Returns:
        ``output, finished, images, <one key per status>, progress`` (share of the source's bytes, None if unknown),
        ``seconds, images_per_s, eta_s`` (None if unknown), ``reasons``, ``job`` (who holds the lease, "" for nobody; a
        job that was killed on another machine holds it until another one takes it) and ``interrupted`` (who held it,
        and is gone before it was finished; "" for nobody). Pauses between resumed runs count as time.

    Raises:
        RunConflictError: no run there.
    """
    found = load_run_at(output, storage)
    rows = ledger.load_effective(found.store, columns=["status", "reason", "source_bytes"], folders=ledger.EVERYWHERE)
    opened = datetime.fromisoformat(found.info["opened"])
    ended = datetime.fromisoformat(found.info["finished"]) if found.finished else now or datetime.now(UTC)
    seconds = max((ended - opened).total_seconds(), 1.0)
    listed = read_listing(found.store)
    total = found.info["listing"] or (listed and listed["listing"])
    progress = 1.0 if found.finished else _share(pc.sum(rows["source_bytes"]).as_py() or 0, total)
    counts = Counter(rows["status"].to_pylist())
    lease = newest(found.store)
    holder, gone = (lease.name, lease.is_gone) if lease and not lease.released else ("", False)
    return {
        "output": found.store.uri(),
        "started": found.info["started"],
        "finished": found.info["finished"],
        "images": rows.num_rows,
        **{status.value: counts[status.value] for status in Status},
        "progress": progress,
        "seconds": seconds,
        "images_per_s": rows.num_rows / seconds,
        "eta_s": seconds * (1 - progress) / progress if progress else None,
        "reasons": dict(Counter(reason for reason in rows["reason"].to_pylist() if reason).most_common()),
        "job": "" if gone else holder,
        "interrupted": holder if gone and not found.finished else "",
    }


def _share(done_bytes: int, listing: dict[str, Any] | None) -> float | None:
    """Share of the source's bytes, below 1; None while their number isn't known (an inventory doesn't tell)."""
    return min(done_bytes / listing["bytes"], 0.999) if listing and listing["bytes"] > 0 else None


def text(summary: dict[str, Any]) -> str:
    """The summary for people."""
    state = f"finished {summary['finished']}" if summary["finished"] else "not finished"
    state += f", held by {summary['job']}" if summary["job"] else ""
    state += f", interrupted ({summary['interrupted']} is gone); run again to go on" if summary["interrupted"] else ""
    speed = f"{summary['images']:,} images, {summary['images_per_s']:.2f} a second"
    if summary["progress"] is not None and not summary["finished"]:
        left = "" if summary["interrupted"] else f", about {_duration(summary['eta_s'])} left"
        speed += f"; {summary['progress']:.0%} of the bytes{left}"
    lines = [f"{summary['output']}: started {summary['started']}, {state}", speed]
    lines += [f"  {status.value:<9}{summary[status.value]:>10,}" for status in Status]
    lines += [f"  {reason:<20}{count:>10,}" for reason, count in summary["reasons"].items()]
    return "\n".join(lines)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["status", *sys.argv[1:]]))
