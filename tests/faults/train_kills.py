"""What a killed worker, and a killed driver, change of a training: nothing; prints by how much, and what it cost.

    python -m tests.faults.train_kills FOLDER [--steps N]

The same ``fdi train`` three times, two workers each: undisturbed; one worker killed half-way; the driver killed
half-way with its Ray, as when a machine goes down, and the command given again. Ends with exit code 1 if a step's loss
differs, or validation PSNR by more than 0.05 dB.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.pairs import write_pairs
from tests.session import Session

VICTIMS = ("nobody", "worker", "driver")
LARGEST_DB = 0.05
_PAIRS, _CELLS = 24, 16  # of 8 px
_WAIT_S = 600.0


class Training(Session):
    """``fdi train`` of the compact preset's base on pairs of somebody's own, as a process of its own."""

    def __init__(self, folder: Path, pairs: Path, steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "kind": "train", "task": "own", "data": {"uri": str(pairs), "kind": "pairs", "validation_fraction": 0.25},
            "output": str(folder / "own"), "steps": steps, "batch": 4, "crop_px": 64, "warmup_steps": 5,
            "workers": 2, "worker": {"cpus": 0.5, "memory_gib": 1}, "checkpoint": {"every_steps": steps // 5},
            "watch": {"log_every_steps": 1, "validation_crops": 16},
        }  # fmt: skip
        path = folder / "manifest.yaml"
        path.write_text(json.dumps(manifest))  # JSON is YAML
        command = [sys.executable, "-m", "jobs.cli", "--json", "train", str(path)]
        super().__init__(command, folder / "stderr", {"RAY_USAGE_STATS_ENABLED": "0"})
        self._work = folder / "own.training"

    def wait_for(self, step: int) -> None:
        """Return when the log has come to a step.

        Raises:
            AssertionError: it doesn't, in ten minutes, or the command ended.
        """
        deadline = time.monotonic() + _WAIT_S
        while not any(log.read_text().count('"loss"') >= step for log in self._work.glob("*/log.jsonl")):
            assert time.monotonic() < deadline and self.process.poll() is None, self.errors.read_text()[-3000:]
            time.sleep(0.05)


def train(folder: Path, pairs: Path, steps: int, victim: str) -> dict[str, Any]:
    """Train to the end, whoever is killed half-way; the summary, the loss of every step, and seconds."""
    started = time.monotonic()
    with Training(folder, pairs, steps) as command:
        if victim != "nobody":
            command.wait_for(steps // 2)
        if victim == "worker":
            command.kill(command.pids(b"ray::RayTrainWorker")[:1])
        if victim != "driver":
            summary = command.summary()
    if victim == "driver":
        assert not (folder / "own").exists(), "the training was over before its driver was killed"
        with Training(folder, pairs, steps) as command:
            summary = command.summary()
    lines = map(json.loads, (folder / "own" / "training-log.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in lines if "loss" in row]
    assert len(losses) == steps, f"{len(losses)} of {steps} steps in the log"
    return {"losses": losses, "psnr": summary["last"]["validation_psnr"], "seconds": time.monotonic() - started}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.train_kills", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args(argv)
    folder = args.folder.absolute()
    pairs = write_pairs(folder / "pairs", "stain", _PAIRS, cells=_CELLS)
    table = Table("killed", "steps", "validation PSNR, dB", "difference, dB", "largest difference of a loss", "seconds")
    runs: dict[str, dict[str, Any]] = {}
    for victim in VICTIMS:
        found = runs[victim] = train(folder / victim, pairs, args.steps, victim)
        found["db"] = abs(found["psnr"] - runs["nobody"]["psnr"])
        both = zip(found["losses"], runs["nobody"]["losses"], strict=True)
        found["relative"] = max(abs(one / other - 1) for one, other in both)
        figures = f"{found['psnr']:.4f}", f"{found['db']:.4f}", f"{found['relative']:.1e}", f"{found['seconds']:.0f}"
        table.add_row(victim, str(args.steps), *figures)
    Console(width=110).print(table)
    return int(any(found["db"] > LARGEST_DB or found["relative"] > 1e-5 for found in runs.values()))


if __name__ == "__main__":
    sys.exit(main())
