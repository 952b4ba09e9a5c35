"""``fdi train``: an adapter on Ray (``training/adapter.py``), compact base or encoder here (``training/compact.py``).

A run that was interrupted goes on from its checkpoint when the same command is given again.
"""

from __future__ import annotations

import sys
from typing import Any

from fdi_lib.manifest import TrainManifest
from jobs.training import adapter, compact
from jobs.training.output import one_at_a_time
from jobs.training.plan import absolute


def run(manifest: TrainManifest) -> dict[str, Any]:
    """Train what the manifest names; return the summary.

    Raises:
        ManifestError: the data can't be used, or the kind of data isn't supported yet.
        RunConflictError: the output is not this training's.
        LeaseError: another process trains the same.
        WeightsError: the base, encoder or bank is missing.
        DivergedError: the loss is not a number; the last checkpoint is kept.
    """
    manifest = absolute(manifest)
    with one_at_a_time(manifest):
        return adapter.run(manifest) if manifest.model == "adapter" else compact.run(manifest)


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
