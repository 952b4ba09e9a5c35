"""What is checked before a job that reads images starts anything: places, models, the inventory. Writes nothing.

Does NOT know what the job does with the images, nor the cluster (``pool.py``).
"""

from __future__ import annotations

from typing import Any

from fdi_lib.manifest import RestoreManifest
from fdi_lib.storage.inventory import check_inventory
from fdi_lib.storage.store import Store
from jobs.parts import Parts


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
    if manifest.source.format == "inventory":
        check_inventory(source, adapters.keys() - manifest.restore.disabled)
    return models
