"""``python -m jobs.benches.bank``: moments of a million synthetic feature pairs, in flat memory, against two passes.

Features come from a seeded generator, unit by unit, and go through the same reduction and merge as a bank's
(:mod:`jobs.training.pair_features`). Then this process alone runs over the generator twice, in float64, and the two are
compared. Exit code 1 if they differ by more than 1e-5, or memory grew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from rich.console import Console
from rich.table import Table

from fdi_lib.core.moments import PairMoments
from jobs.read_tasks import ReadTasks
from jobs.training.pair_features import FEATURES, features_row, parts

UNIT_PAIRS = 2048
_PART_UNITS = 4  # a part is 8,192 pairs; a part of 1,024 numbers is 16 MiB, whatever its pairs
_SAMPLE = 1024
_TASKS = 32
_FACTORS = 8  # directions in which both sides vary together
_LINES = 10
LARGEST_ERROR = 1e-5
LARGEST_GROWTH = 1.25  # of the second half's peak over the first's; what grows with the pairs would double


def features(unit: int, pairs: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of a unit, (degraded, clean), float32 N,D: a mean far from zero, factors, and noise."""
    basis = np.random.default_rng([seed, 0]).standard_normal((3, _FACTORS, width), np.float32)
    rng = np.random.default_rng([seed, 1, unit])
    factors = rng.standard_normal((2, pairs, _FACTORS), np.float32)
    clean = 5 * basis[2, 0] + factors[0] @ basis[0] + rng.standard_normal((pairs, width), np.float32)
    rest = 0.3 * rng.standard_normal((pairs, width), np.float32)
    return clean + basis[2, 1] + 0.5 * factors[1] @ basis[1] + rest, clean


def streamed(pairs: int, width: int, seed: int, tell: Callable[[int], None]) -> PairMoments:
    """The moments on Ray Data; ``tell(pairs so far)`` is called after every part."""
    whole: PairMoments | None = None
    units = list(_units(pairs))
    shares = [units[i::_TASKS] for i in range(min(_TASKS, len(units)))]
    reads = [partial(_tables, share, pairs, width, seed) for share in shares]
    stream = ray.data.read_datasource(ReadTasks(reads), num_cpus=0.9, override_num_blocks=len(reads))
    for part in parts(stream, _PART_UNITS, _SAMPLE, seed):
        assert part.learnt is not None, "nothing is held out"
        whole = part.learnt if whole is None else whole.merge(part.learnt)
        tell(whole.count)
    assert whole is not None, "at least one pair"
    return whole


def two_passes(pairs: int, width: int, seed: int) -> dict[str, np.ndarray]:
    """Means, then covariances, in float64 over the same generator."""
    mean = {name: np.zeros(width) for name in ("clean", "degraded", "difference")}
    for columns in _columns(pairs, width, seed):
        for name, x in columns.items():
            mean[name] += x.sum(0) / pairs
    found = {f"{name} mean": value for name, value in mean.items()}
    found |= {f"{name} covariance": np.zeros((width, width)) for name in mean}
    for columns in _columns(pairs, width, seed):
        for name, x in columns.items():
            x -= mean[name]
            found[f"{name} covariance"] += x.T @ x / pairs
    return found


def errors(moments: PairMoments, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each quantity, as a share of its largest value."""
    found = {
        "clean mean": moments.clean.mean_D,
        "clean covariance": moments.clean.covariance_DD,
        "degraded mean": moments.degraded.mean_D,
        "degraded covariance": moments.degraded.covariance_DD,
        "difference mean": moments.difference.mean_D,
        "difference covariance": moments.difference.covariance_DD,
    }
    return {name: float(np.abs(found[name] - truth[name]).max() / np.abs(truth[name]).max()) for name in truth}


def run(pairs: int, width: int, seed: int) -> dict[str, Any]:
    """Measure, and print both tables."""
    console, started = Console(), time.monotonic()
    table = Table("pairs", "driver MiB", "workers MiB", "s", title=f"{pairs:,} pairs of {width:,} numbers")
    seen: list[tuple[int, float, float]] = []

    def tell(count: int) -> None:
        before = seen[-1][0] if seen else 0
        seen.append((count, *memory_mib()))
        if count * _LINES // pairs > before * _LINES // pairs:
            mib = (f"{value:,.0f}" for value in seen[-1][1:])
            table.add_row(f"{count:,}", *mib, f"{time.monotonic() - started:.0f}")

    ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=2**30)
    try:
        moments = streamed(pairs, width, seed, tell)
    finally:
        ray.shutdown()
    streamed_s = time.monotonic() - started
    console.print(table)
    found = errors(moments, two_passes(pairs, width, seed))
    compared = Table("against two passes in float64", "largest relative difference")
    for name, error in found.items():
        compared.add_row(name, f"{error:.1e}")
    console.print(compared)
    result = {
        "pairs": moments.count,
        "width": width,
        "streamed_s": round(streamed_s, 1),
        "seconds": round(time.monotonic() - started, 1),
        "largest_error": max(found.values()),
        "driver_growth": _growth([row[1] for row in seen]),
        "workers_growth": _growth([row[2] for row in seen]),
    }
    console.print(", ".join(f"{name} {value:.3g}" for name, value in result.items()))
    return result


def _growth(mib: list[float]) -> float:
    """Peak of the last half over the peak of the first: 1 is flat."""
    half = max(1, len(mib) // 2)
    return max(mib[half:] or mib) / max(*mib[:half], 1.0)


def memory_mib() -> tuple[float, float]:
    """Memory of this process, and of all processes below it (Ray's servers and workers) together, MiB.

    Linux's figures, shared pages left out, so that the object store (fixed in size) doesn't count for each process.
    """
    kib: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        kib[int(path.parent.name)] = int(lines["PPid"]), int(lines.get("RssAnon", "0 kB").split()[0])
    family, grown = {os.getpid()}, True
    while grown:
        below = {pid for pid, (parent, _) in kib.items() if parent in family} - family
        family, grown = family | below, bool(below)
    own = kib.get(os.getpid(), (0, 0))[1]
    return own / 1024, (sum(kib[pid][1] for pid in family if pid in kib) - own) / 1024


def _tables(units: list[tuple[int, int]], pairs: int, width: int, seed: int) -> Iterator[pa.Table]:
    """Rows as the encoder would make them."""
    tokens = np.zeros((1, width))
    for unit, count in units:
        degraded, clean = features(unit, count, width, seed)
        both = np.empty((2 * count, width), np.float32)
        both[0::2], both[1::2] = degraded, clean
        names = [f"{unit}-{i}" for i in range(count)]
        yield pa.Table.from_pylist([features_row(names, [both], tokens, [])], FEATURES)


def _units(pairs: int) -> Iterator[tuple[int, int]]:
    for start in range(0, pairs, UNIT_PAIRS):
        yield start // UNIT_PAIRS, min(UNIT_PAIRS, pairs - start)


def _columns(pairs: int, width: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    for unit, count in _units(pairs):
        degraded, clean = (side.astype(np.float64) for side in features(unit, count, width, seed))
        yield {"clean": clean, "degraded": degraded, "difference": degraded - clean}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.benches.bank", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1024, help="numbers of a pooled feature")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    found = run(args.pairs, args.width, args.seed)
    flat = max(found["driver_growth"], found["workers_growth"]) <= LARGEST_GROWTH
    return 0 if flat and found["largest_error"] <= LARGEST_ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
