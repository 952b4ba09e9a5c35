"""Read an object's images once: hash, decode, look. What goes on is references and small views, never the image.

A bad image is a row with a status; an image that the ledger knows is skipped. Does NOT know Ray, models, or what
becomes of a row.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from fdi_lib.core.batches import pack, unpack
from fdi_lib.core.views import ViewSpec
from fdi_lib.errors import ItemError
from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import DECISION, Reason, Status
from fdi_lib.storage.decoder import Decoder
from fdi_lib.storage.ledger import is_done
from fdi_lib.storage.sources import read_images
from fdi_lib.storage.store import ObjectEntry, Store


class Decode:
    """Batches of objects in, batches of decision rows with views out.

    Args:
        manifest: what is read, and the limits.
        spec: size and number of the classifier's views.
        load_done: returns the index of images that need nothing, called once a worker; None for none.
        only: ids to work on, or None for all (``retry``).
    """

    def __init__(
        self,
        manifest: RestoreManifest,
        spec: ViewSpec,
        load_done: Callable[[], np.ndarray] | None = None,
        only: frozenset[str] | None = None,
    ) -> None:
        self.manifest, self.spec, self.load_done, self.only = manifest, spec, load_done, only
        self._decoder = Decoder(manifest.limits)

    @cached_property
    def _store(self) -> Store:
        return Store.open(self.manifest.source.uri, self.manifest.source.storage)

    @cached_property
    def _done(self) -> np.ndarray | None:
        return self.load_done() if self.load_done else None

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield packed batches of at most ``pools.classify.batch`` images; rows without a status have views."""
        rows: list[dict[str, Any]] = []
        views: list[np.ndarray] = []
        for row, looks in self._images(table):
            rows.append(row)
            views += [] if looks is None else [looks]
            if len(rows) == self.manifest.pools.classify.batch:
                yield self._batch(rows, views)
                rows, views = [], []
        if rows:
            yield self._batch(rows, views)

    def _images(self, table: pa.Table) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        for entries, _ in unpack(table):
            for path, size, token in zip(*(entries[name].to_pylist() for name in ObjectEntry._fields), strict=True):
                started = time.perf_counter()
                entry = ObjectEntry(path.decode("utf-8", "surrogateescape"), size, token)
                limit_s = self.manifest.limits.timeout_s
                for reference, data in read_images(self._store, self.manifest.source, entry, timeout_s=limit_s):
                    if self._wanted(reference["image_id"]):
                        row, looks = self._look(reference, data)
                        row["decode_s"] = time.perf_counter() - started
                        yield row, looks
                    started = time.perf_counter()

    def _wanted(self, image_id: str) -> bool:
        if self.only is not None:
            return image_id in self.only
        return self._done is None or not bool(is_done(self._done, [image_id])[0])

    def _look(self, reference: dict[str, Any], data: bytes | ItemError) -> tuple[dict[str, Any], np.ndarray | None]:
        """Return the row of one image and its views (None when there is nothing to classify)."""
        row = dict.fromkeys(DECISION.names) | reference
        row |= dict.fromkeys(("source_sha256", "status", "reason", "detail", "verdict", "route", "composition"), "")
        row |= {"pages": [], "scores": [], "classify_s": 0.0}
        if isinstance(data, ItemError):
            return row | _fate(data), None
        row |= {"source_sha256": hashlib.sha256(data).hexdigest(), "source_bytes": len(data)}
        seen = self._decoder.look(data, self.spec)
        pages = [{"width": width, "height": height} for width, height in seen.pages]
        row |= {"width": seen.width, "height": seen.height, "pages": pages}
        return row | (_fate(seen.error) if seen.error else {}), seen.views

    def _batch(self, rows: list[dict[str, Any]], views: list[np.ndarray]) -> pa.Table:
        shape = (len(views), self.spec.count, self.spec.size_px, self.spec.size_px, 3)
        return pack(
            pa.Table.from_pylist(rows, schema=DECISION), np.stack(views) if views else np.zeros(shape, np.uint8)
        )


def _fate(error: ItemError) -> dict[str, Any]:
    """What becomes of an image that can't be classified."""
    kept = error.reason == Reason.UNSUPPORTED_PIXELS
    return {"status": Status.KEPT if kept else Status.FAILED, "reason": error.reason, "detail": error.detail}


def pack_entries(entries: list[ObjectEntry]) -> pa.Table:
    """Make a packed batch of listed objects; names travel as bytes, because not every name is Unicode."""
    names = [entry.path.encode("utf-8", "surrogateescape") for entry in entries]
    return pack(
        pa.table(
            {
                "path": pa.array(names, pa.binary()),
                "size": pa.array([entry.size for entry in entries], pa.int64()),
                "version": pa.array([entry.version for entry in entries], pa.string()),
            }
        )
    )
