"""``fdi restore`` with fakes for models, as a process that tests may kill: ``python -m tests.faults.driver MANIFEST``.

Units are small; the restorer is slow, and notes the key of each image that it works on in a file beside the output.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from fdi_lib.core.routing import Backlog
from fdi_lib.core.views import ViewSpec
from fdi_lib.manifest import ModelSettings, RestoreManifest
from jobs import restore
from jobs.cli import main
from jobs.parts import Parts
from tests import fakes

_FAST = bool(os.environ.get("FDI_TEST_FAST"))
_PAUSE_S = 0.0 if _FAST else 0.08


class NotingRestorer(fakes.FakeRestorer):
    """Takes a little while for each image, and notes it when it is done."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        notes.mkdir(exist_ok=True)
        self._notes = notes / f"{os.getpid()}"

    def _restore(self, image: np.ndarray, key: int) -> np.ndarray:
        made = super()._restore(image, key)
        time.sleep(_PAUSE_S)
        with self._notes.open("a") as file:
            file.write(f"{key}\n")
        return made


def make_noting(manifest: RestoreManifest) -> NotingRestorer:
    return NotingRestorer(Path(f"{manifest.output.uri}.notes"))


def view_spec(models: ModelSettings) -> ViewSpec:
    """Of larger views where the environment asks for them."""
    side = os.environ.get("FDI_TEST_VIEW_PX")
    return ViewSpec(int(side), crops=4) if side else fakes.SPEC


if __name__ == "__main__":
    from tests.faults import driver  # not as __main__: workers import these functions

    restore.Parts = lambda: Parts(fakes.describe, driver.view_spec, fakes.make_classifier, driver.make_noting)  # type: ignore[assignment,misc]
    if not _FAST:  # else all would be in flight at once
        restore.Backlog = partial(Backlog, unit_images=4)  # type: ignore[assignment,misc]
    sys.exit(main(["restore", "--json", *sys.argv[1:]]))
