"""``python -m jobs.training.weights``: the compact preset from nothing by its manifests (`make weights`).

Base and encoder learn side by side, then the bank is built, then the adapters are trained, ``--at-once`` of them at a
time. Each training is a process of its own (``alone.py``): small models keep a GPU busy only together. What is
finished is not done again. Does NOT measure: that is ``fdi evaluate``.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MANIFESTS = Path("manifests/train/compact")
BANK = "manifests/banks/compact.yaml"
ADAPTERS = ("low_resolution", "scratch", "rain", "snow", "jpeg", "haze", "low_light", "noise",
            "bleed_through", "stain", "shadow", "fade", "defocus")  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Train everything; 0 if all of it is there in the end, else the exit code of what failed first."""
    parser = ArgumentParser(prog="python -m jobs.training.weights", description=__doc__)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="for every training: steps=20, say")
    parser.add_argument("--at-once", type=int, default=1, help="trainings of adapters at a time")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches, for each training")
    options = parser.parse_args(argv)
    workers = ["--workers", str(options.workers)]
    trainings = ["replace=true", *options.changes, *workers]
    chains = [ADAPTERS[i :: options.at_once] for i in range(options.at_once)]
    try:
        _together([_training([name], trainings) for name in ("base", "encoder")], 2)
        _together([[sys.executable, "-m", "jobs.training.bank_made", BANK, *workers]], 1)
        _together([_training(chain, trainings) for chain in chains if chain], options.at_once)
    except subprocess.CalledProcessError as failed:
        return int(failed.returncode)
    return 0


def _training(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """The command that trains some manifests, one after the other."""
    manifests = [str(MANIFESTS / f"{name}.yaml") for name in names]
    return [sys.executable, "-m", "jobs.training.alone", *manifests, *given]


def _together(commands: Sequence[Sequence[str]], at_once: int) -> None:
    """Run commands, so many at a time; all end before the first failure is raised, and what they did is kept."""
    with ThreadPoolExecutor(at_once) as pool:
        runs = [pool.submit(subprocess.run, command, check=True) for command in commands]
    for run in runs:
        run.result()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
