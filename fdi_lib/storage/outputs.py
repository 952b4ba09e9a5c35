"""Where an image's results go, and how they are written: create-only, under names that follow from the image alone.

Does NOT know models, Ray, or why an image has its status.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason, Status
from fdi_lib.storage.provenance import sidecar
from fdi_lib.storage.store import Store, check_name

_JSON_FIELDS = (
    "image_id", "source_uri", "source_sha256", "source_bytes", "width", "height", "status", "reason", "detail",
    "verdict", "composition", "scores", "residual", "gates", "output_uri", "output_sha256",
)  # fmt: skip


def output_name(image_id: str, shard: str) -> str:
    """Return the path below ``images/``: the image id without the shard's extension.

    Raises:
        ItemError: ``UNSAFE_NAME``.
    """
    if not shard:
        return check_name(image_id)
    folder, slash, file = shard.rpartition("/")
    return check_name(f"{folder}{slash}{file.partition('.')[0] or file}{image_id.removeprefix(shard)}")


def renamed(name: str, extension: str, taken: bool) -> str:
    """Return the name with another extension (``.tiff``; "" changes nothing); ``taken`` keeps the old one before it."""
    stem, dot, old = name.rpartition(".")
    if not extension:
        return name
    return f"{name}{extension}" if taken or not dot or "/" in old else f"{stem}{extension}"


class Outputs:
    """Writes the results of images below one output root.

    Args:
        store: the output.
        run: run.json's content, for the sidecars.
    """

    def __init__(self, store: Store, run: dict[str, Any]) -> None:
        self.store, self.run = store, run

    def image(self, row: dict[str, Any], name: str, data: bytes) -> dict[str, Any]:
        """Write an image and its sidecar; return the row with its ``output_*`` columns.

        If the name is taken by an earlier attempt at the same image, what lies there counts.

        Raises:
            ItemError: ``OUTPUT_CONFLICT``: another image's bytes lie there.
        """
        row = row | self._create(f"images/{name}", data)
        described = sidecar(row, self.run)
        if not self.store.create(f"images/{name}.json", described):
            there = self.store.read(f"images/{name}.json")
            if there != described:
                raise ItemError(Reason.OUTPUT_CONFLICT, f"images/{name} belongs to another image")
        return row

    def for_review(self, row: dict[str, Any], name: str, candidate: bytes | None) -> dict[str, Any]:
        """Write the JSON of an image that needs a person, and the refused candidate beside it."""
        if candidate is not None:
            self.store.replace(f"review/{name}", candidate)
            row = row | self._described(f"review/{name}", candidate)
        self.store.replace(f"review/{safe_name(row)}.json", _json(row))
        return row

    def failed(self, row: dict[str, Any]) -> None:
        """Write the JSON of an image that could not be read or restored."""
        self.store.replace(f"failed/{safe_name(row)}.json", _json(row))

    def settle(self, row: dict[str, Any]) -> None:
        """Remove what an earlier attempt left in ``failed/`` and ``review/``, where that is no longer the status."""
        name = safe_name(row)
        if row["status"] != Status.FAILED:
            self.store.delete(f"failed/{name}.json")
        if row["status"] != Status.REVIEW and self.store.exists(f"review/{name}.json"):
            candidate = json.loads(self.store.read(f"review/{name}.json"))["output_uri"]
            if candidate.startswith(self.store.uri("review/")):
                self.store.delete(self.store.at(candidate)[1])
            self.store.delete(f"review/{name}.json")

    def _create(self, path: str, data: bytes) -> dict[str, Any]:
        if not self.store.create(path, data):
            data = self.store.read(path)
        return self._described(path, data)

    def _described(self, path: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        return {"output_uri": self.store.uri(path), "output_sha256": digest, "output_bytes": len(data)}


def safe_name(row: dict[str, Any]) -> str:
    """The output name of a row, or a name made of its id's hash where that could not be a file's name."""
    try:
        return output_name(row["image_id"], row["shard"])
    except ItemError:
        return "unsafe-" + hashlib.sha256(row["image_id"].encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _json(row: dict[str, Any]) -> bytes:
    fields = {key: row[key] for key in _JSON_FIELDS}
    fields["scores"] = dict(fields["scores"] or [])
    return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
