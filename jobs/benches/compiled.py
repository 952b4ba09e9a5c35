"""``python -m jobs.benches.compiled``: the compact preset on this CPU as it is, channels last and compiled.

All ways are loaded in one process and take turns on the same tiles, so that a machine's moods hit all alike; medians of
ratios count, of seconds and of the process's CPU seconds, which others on the machine disturb less. Does NOT choose a
way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch._inductor.config

from fdi_lib.core.decision import told
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.restorer import Restorer

WAYS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, channels last": {"channels_last": True},
    "fp32, compiled": {"compile": "default"},
    "bf16": {"dtype": "bf16"},
    "bf16, channels last": {"dtype": "bf16", "channels_last": True},
    "bf16, channels last, compiled": {"dtype": "bf16", "channels_last": True, "compile": "default"},
}
_DECISION = told(["noise"])


def measure(tile_px: int, batch: int, repeats: int) -> list[dict[str, Any]]:
    """Restore one batch of tiles in each way in turn.

    Args:
        tile_px: side of a tile.
        batch: tiles of a forward pass.
        repeats: turns.

    Returns:
        For each way: ``speed`` over the first way (median, lowest and highest of the turns' ratios), ``cpu`` (the same
        of CPU seconds, median), ``first_s`` (first batch, with compiling anew), ``tiles_to_pay`` (after how many tiles
        that is made good, by the medians; None: never) and ``largest_difference`` from the first way, of 255.

    Raises:
        ManifestError: torch.compile does not work here.
    """
    images = list(np.random.default_rng(0).integers(0, 256, (batch, tile_px, tile_px, 3), np.uint8))
    restorers, first_s, made = {}, {}, {}
    for way, change in {"": {}, **WAYS}.items():  # once for nothing: what every process does once is nobody's
        settings = RestoreSettings(tile_px=tile_px, overlap_px=tile_px // 32 * 8, **change)
        restorer = Restorer.from_settings(ModelSettings(), ClassifySettings(), settings, batch=batch)
        began = time.perf_counter()
        made[way] = np.stack(restorer.restore(images, [_DECISION] * batch)).astype(int)
        restorers[way], first_s[way] = restorer, time.perf_counter() - began
        print(f"{way}: first batch {first_s[way]:.1f} s", file=sys.stderr, flush=True)
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            began, began_cpu = time.perf_counter(), time.process_time()
            restorers[way].restore(images, [_DECISION] * batch)
            took[way].append(time.perf_counter() - began)
            cpu[way].append(time.process_time() - began_cpu)
    usual, *_ = WAYS
    rows = []
    for way in WAYS:
        ratios, cpu_ratios = ([a / b for a, b in zip(spent[usual], spent[way], strict=True)] for spent in (took, cpu))
        saved_s = (median(took[usual]) - median(took[way])) / batch
        extra_s = first_s[way] - first_s[usual]
        rows.append({
            "way": way, "speed": round(median(ratios), 2), "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2), "cpu": round(median(cpu_ratios), 2), "first_s": round(first_s[way], 1),
            "tiles_to_pay": max(0, round(extra_s / saved_s)) if saved_s > 0 else None,
            "largest_difference": int(np.abs(made[way] - made[usual]).max()),
        })  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table; as JSON, too, where a file is named."""
    parser = argparse.ArgumentParser(prog="python -m jobs.benches.compiled", description=__doc__)
    parser.add_argument("--tile-px", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    before = round(os.getloadavg()[0], 2)
    torch._inductor.config.force_disable_caches = True  # what an earlier run compiled is not there on a new node
    try:
        rows = measure(given.tile_px, given.batch, given.repeats)
    except ManifestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    print(f"torch {torch.__version__}, {threads} threads, {cores} cores, load average {before} before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
