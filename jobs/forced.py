"""Images whose adapter an inventory names: they are read and hashed like all others, but nobody classifies them.

Around the two stages of the stream: what ``decode`` sees of such an image leaves as a decided row, without views, and
``ClassifyOthers`` lets it pass. Does NOT know which adapters there are (``preflight.py`` has asked).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from fdi_lib.core.batches import pack, unpack
from fdi_lib.manifest import RestoreSettings
from fdi_lib.records import DECISION
from fdi_lib.stages.classify import Classify, ViewClassifier
from fdi_lib.stages.decode import Decode
from fdi_lib.storage.inventory import facts
from fdi_lib.storage.store import ObjectEntry

VERDICT = "forced"  # of the ledger, beside single, mixture, clean and unknown
DETAIL = "the inventory names this adapter"


def decode_or_force(decode: Decode, restore: RestoreSettings, table: pa.Table) -> Iterator[pa.Table]:
    """Decode a packed batch of an inventory's entries; forced images come in batches of their own.

    Args:
        decode: the stage.
        restore: the manifest's section, for the adapters' weights.
        table: as :func:`fdi_lib.stages.decode.pack_entries` makes it.
    """
    adapters = _adapters(table)
    for decoded in decode(table):
        for rows, views in unpack(decoded):
            assert views is not None
            forced = [adapters.get(row["source_uri"], "") if not row["status"] else "" for row in rows.to_pylist()]
            if not any(forced):
                yield pack(rows, views)
                continue
            is_forced = np.array([bool(name) for name in forced])
            seen = np.array([not status for status in rows["status"].to_pylist()])  # each of these has views
            decided = [
                row | _decided(name, restore) for row, name in zip(rows.to_pylist(), forced, strict=True) if name
            ]
            yield pack(pa.Table.from_pylist(decided, schema=DECISION), views[:0])
            if not is_forced.all():
                yield pack(rows.filter(pa.array(~is_forced)), views[~is_forced[seen]])


class ClassifyOthers:
    """The classify stage for all batches but those whose images have their route already."""

    def __init__(self, load: Callable[[], ViewClassifier], unknown: str) -> None:
        """As :class:`fdi_lib.stages.classify.Classify`."""
        self._classify = Classify(load, unknown)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the packed batches with their decisions, without views."""
        return pa.concat_tables([self._decided(rows, views) for rows, views in unpack(table)])

    def _decided(self, rows: pa.Table, views: np.ndarray | None) -> pa.Table:
        forced = rows.num_rows > 0 and rows["verdict"][0].as_py() == VERDICT
        return pack(rows) if forced else self._classify(pack(rows, views))


def _adapters(table: pa.Table) -> dict[str, str]:
    """The adapters that entries name, by URI."""
    found = {}
    for entries, _ in unpack(table):
        for path, version in zip(entries["path"].to_pylist(), entries["version"].to_pylist(), strict=True):
            name = facts(ObjectEntry("", 0, version)).get("adapter")
            if name:
                found[path.decode("utf-8", "surrogateescape")] = name
    return found


def _decided(name: str, restore: RestoreSettings) -> dict[str, Any]:
    strength = restore.strengths.get(name, restore.strength)
    return {"verdict": VERDICT, "detail": DETAIL, "route": name, "composition": f"{name}:{strength:.2f}"}
