"""Which images of a source would get the same name in the output, and the names that tell them apart.

``a/x.png`` and the member ``x.png`` of ``a.tar`` would both be ``images/a/x.png``: where that can happen, the shard
keeps its extension, ``images/a.tar/x.png``. Members ``x.png`` and ``x.tif`` would both become ``x.tiff``: both keep
their old extension before the new one. What is asked is the source alone, never what was written before, so that no
name depends on the order of work. Does NOT know the output.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fdi_lib.storage.sources import SHARDS, holds_images, read_images
from fdi_lib.storage.store import UNKNOWN_SIZE, ObjectEntry, Store

if TYPE_CHECKING:
    from fdi_lib.manifest.settings import SourceSettings


def shard_folder(store: Store, source: SourceSettings, shard: str) -> str:
    """Return the folder, below ``images/``, of a shard's members: its path without its extension, or else with it.

    It keeps its extension where another shard has the same name but for the extension, or where a folder of that name
    holds images.

    Args:
        store: rooted at ``source.uri``.
        source: what counts as an image there.
        shard: path of the shard.
    """
    stem = without_extension(shard)
    others = {f"{stem}.{suffix}" for known in SHARDS for suffix in (known, known.upper())} - {shard}
    if any(holds_images(other, source.format) and store.exists(other) for other in sorted(others)):
        return shard
    return shard if any(holds_images(entry.path, source.format) for entry in store.walk(f"{stem}/")) else stem


def without_extension(path: str) -> str:
    """The path without its last extension; a name that is nothing else (``.tar``) stays as it is."""
    folder, slash, file = path.rpartition("/")
    return f"{folder}{slash}{file.rpartition('.')[0] or file}"


class Rivals:
    """Tells the names of one source's images apart; remembers what it has found out about its shards."""

    def __init__(self, source: SourceSettings) -> None:
        """Touches nothing yet."""
        self._source, self._store = source, Store.open(source.uri, source.storage)
        self._folders: dict[str, str] = {}
        self._stems: dict[str, Counter[str]] = {}

    def folder(self, shard: str) -> str:
        """As :func:`shard_folder`."""
        if shard not in self._folders:
            self._folders[shard] = shard_folder(self._store, self._source, shard)
        return self._folders[shard]

    def member(self, row: dict[str, Any], name: str) -> str:
        """Return the name inside its shard for what would be called ``name``.

        Args:
            row: the image; needs ``image_id`` and ``shard``.
            name: its own name inside the shard, maybe with another extension.
        """
        own = row["image_id"].removeprefix(f"{row['shard']}/")
        alone = name == own or self._members(row["shard"])[without_extension(own)] < 2
        return name if alone else f"{own}.{name.rpartition('.')[2]}"

    def _members(self, shard: str) -> Counter[str]:
        """How many images of a shard have a name but for its extension; reads the shard's headers or names."""
        if shard not in self._stems:
            alone = self._store.is_object()
            entry = ObjectEntry(self._store.uri() if alone else shard, UNKNOWN_SIZE, "")
            images = read_images(self._store, self._source, entry, with_bytes=False)
            self._stems[shard] = Counter(
                without_extension(row["image_id"].removeprefix(f"{shard}/")) for row, _ in images
            )
        return self._stems[shard]
