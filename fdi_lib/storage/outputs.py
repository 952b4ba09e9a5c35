"""Where an image's results go, and how they are written: create-only, under names that follow from the source alone.

What is delivered lies at its output name, which ``rivals.py`` tells apart from others'; what is set aside, in
``review/`` and ``failed/``, lies at its image id, which no other image has. With a shard layout they are staged below
``_control/`` and wait there for their shard (``assemble.py``). Does NOT know models, Ray, or why an image has its
status.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import defaultdict
from functools import cached_property
from typing import Any

import pyarrow as pa

from fdi_lib.errors import ItemError, ManifestError
from fdi_lib.manifest.settings import SourceSettings
from fdi_lib.records import LEDGER, Reason, Status
from fdi_lib.storage.ledger import FOLDER, STAGED, write_part
from fdi_lib.storage.names import check_image_name
from fdi_lib.storage.provenance import sidecar
from fdi_lib.storage.rivals import Rivals, without_extension
from fdi_lib.storage.store import Store, printable

DELIVERED = (Status.RESTORED, Status.CLEAN, Status.KEPT)  # statuses of images that are in the output
STAGED_IMAGES = "_control/staged/images/"
_JSON_FIELDS = (
    "image_id", "source_uri", "source_sha256", "source_bytes", "width", "height", "status", "reason", "detail",
    "verdict", "composition", "scores", "residual", "gates", "output_uri", "output_sha256",
)  # fmt: skip


def output_name(image_id: str, shard: str) -> str:
    """Return the path below ``images/``, as if no other image wanted it: the image id without the shard's extension.

    Raises:
        ItemError: ``UNSAFE_NAME``.
    """
    return check_image_name(f"{without_extension(shard)}{image_id.removeprefix(shard)}" if shard else image_id)


def member_name(name: str, shard: str) -> str:
    """Return the name inside its shard of what :func:`output_name` calls ``name``."""
    return name.removeprefix(f"{output_name(shard, shard)}/")


def staging_folders(shard: str) -> tuple[str, str]:
    """Return where rows and images of a source shard wait until their shard is written."""
    key = hashlib.blake2b(shard.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return f"{STAGED}{key}/", f"{STAGED_IMAGES}{key}/"


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
        run: run.json's content, for the sidecars, and for the source whose images are told apart.
        layout: ``files``, or a shard layout, for which images are staged.
    """

    def __init__(self, store: Store, run: dict[str, Any], layout: str = "files") -> None:
        self.store, self.run, self.layout = store, run, layout

    @cached_property
    def _rivals(self) -> Rivals:
        return Rivals(SourceSettings.model_validate(self.run["manifest"]["source"]))

    def image(self, row: dict[str, Any], name: str, data: bytes) -> dict[str, Any]:
        """Write an image and its sidecar; return the row with its ``output_*`` columns.

        ``name`` is the image's output name, maybe with another extension; members of shards may get a longer one.
        If the name is taken by an earlier try at the same image, what lies there counts. If that try saw other bytes
        of the source, and ended before a row named its output, the new output takes its place.

        Raises:
            ItemError: ``OUTPUT_CONFLICT``: another image's bytes lie there.
        """
        path = self._place(row, name)
        made = row | self._create(path, data)
        described = sidecar(made, self.run)
        if self.store.create(f"{path}.json", described):
            return made
        there = self.store.read(f"{path}.json")
        if there == described:
            return made
        if not _is_left_over(there, row):
            raise ItemError(Reason.OUTPUT_CONFLICT, f"{path} belongs to another image")
        made = row | self._described(path, data)
        self.store.replace(path, data)
        self.store.replace(f"{path}.json", sidecar(made, self.run))
        return made

    def commit(self, rows: list[dict[str, Any]], attempt: int) -> None:
        """Create the ledger part of finished rows; rows of staged images wait with them, sorted by shard."""
        groups = defaultdict(list)
        for row in rows:
            staged = self.layout != "files" and row["status"] in DELIVERED
            groups[staging_folders(row["shard"])[0] if staged else FOLDER].append(row)
        for folder, group in groups.items():
            write_part(self.store, pa.Table.from_pylist(group, schema=LEDGER), attempt, folder)

    def for_review(self, row: dict[str, Any], name: str, candidate: bytes | None) -> dict[str, Any]:
        """Write the JSON of an image that needs a person, and beside it the refused candidate, called like ``name``."""
        if candidate is not None:
            member = self._rivals.member(row, member_name(name, row["shard"])) if row["shard"] else name
            path = posixpath.join("review", posixpath.dirname(safe_name(row)), posixpath.basename(member))
            self.store.replace(path, candidate)
            row = row | self._described(path, candidate)
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

    def _place(self, row: dict[str, Any], name: str) -> str:
        shard = row["shard"]
        if not shard:
            if self.layout != "files":
                raise not_in_a_shard(self.layout, name)
            return f"images/{name}"
        member = self._rivals.member(row, member_name(name, shard))
        if self.layout == "files":
            return f"images/{self._rivals.folder(shard)}/{member}"
        return f"{staging_folders(shard)[1]}{member}"

    def _create(self, path: str, data: bytes) -> dict[str, Any]:
        if not self.store.create(path, data):
            there = self.store.read(path)
            if there != data and not self.store.exists(f"{path}.json"):  # its writer has not said yet whose it is
                raise ItemError(Reason.OUTPUT_CONFLICT, f"other bytes lie at {path}, and no sidecar says whose")
            data = there
        return self._described(path, data)

    def _described(self, path: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        return {"output_uri": self.store.uri(path), "output_sha256": digest, "output_bytes": len(data)}


def safe_name(row: dict[str, Any]) -> str:
    """The image id of a row, or a name made of its hash where that could not be a file's name."""
    try:
        return check_image_name(row["image_id"])
    except ItemError:
        return "unsafe-" + hashlib.sha256(row["image_id"].encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _is_left_over(described: bytes, row: dict[str, Any]) -> bool:
    """Whether a sidecar is of an earlier try at the same image, which saw other bytes of its source."""
    try:
        told = json.loads(described)
        return bool(told["image_id"] == row["image_id"] and told["source"]["sha256"] != row["source_sha256"])
    except (ValueError, KeyError, TypeError):
        return False  # not ours, so somebody else's


def not_in_a_shard(layout: str, name: str) -> ManifestError:
    """What to say of a plain file where results are to lie in shards."""
    return ManifestError(
        f"the source holds single files ({printable(name)}), but this layout puts results into its shards",
        key="output.layout",
        value=layout,
        remedy="use output.layout: files, or `fdi pack` the source first, or name its shards by source.format",
    )


def _json(row: dict[str, Any]) -> bytes:
    fields = {key: row[key] for key in _JSON_FIELDS}
    fields["scores"] = dict(fields["scores"] or [])
    return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
