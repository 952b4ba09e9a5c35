"""What is checked before a job that reads images starts anything: places, models, the inventory. Writes nothing.

Does NOT know what the job does with the images, nor the cluster (``pool.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from fdi_lib.manifest import RestoreManifest
from fdi_lib.storage.inventory import check_inventory
from fdi_lib.storage.store import Store
from jobs.parts import Parts

log = logging.getLogger(__name__)


def preflight(manifest: RestoreManifest, parts: Parts) -> dict[str, Any]:
    """Find what can't work as written; return the models' description for run.json.

    Raises:
        ManifestError: the inventory can't be read, or names an adapter that isn't there or is disabled; something is
            set for an adapter that isn't there.
        StorageRefusedError, StorageOutageError: as the stores say.
        WeightsError: a model is missing, or doesn't belong to the others.
    """
    source = Store.open(manifest.source.uri, manifest.source.storage)
    source.check()
    Store.open(manifest.output.uri, manifest.output.storage).check(for_writing=True)
    models = parts.describe(manifest.models)
    adapters = models.get("adapters", {})
    manifest.restore.check_adapters(adapters)
    if manifest.restore.mode == "composite":
        _warn_of_strangers({name: told.get("together", ()) for name, told in adapters.items()})
    if manifest.source.format == "inventory":
        check_inventory(source, adapters.keys() - manifest.restore.disabled)
    return models


def _warn_of_strangers(together: Mapping[str, Collection[str]]) -> None:
    """Say which adapters were trained together, where others may guide the base at once with them or one another."""
    if len(together) > 1 and any(not set(together) <= set(others) for others in together.values()):
        sets = sorted({" + ".join(sorted(others)) for others in together.values() if others})
        log.warning(
            "restore.mode composite: adapters that were not trained together restore badly at once; trained together: "
            "%s of %s", ", ".join(sets) or "none", ", ".join(sorted(together)),
        )  # fmt: skip
