"""A folder or prefix that holds objects: read, create once, list. The two kinds are ``local.py`` and ``s3.py``.

Paths are relative to the store's root, with ``/`` between segments, whatever the system. Does NOT know what the
objects are (images, shards, ledger parts), nor Ray.
"""

from __future__ import annotations

import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from fdi_lib.errors import ItemError, ObjectRefusedError, StorageRefusedError
from fdi_lib.manifest.locations import local_path, scheme
from fdi_lib.records import Reason

if TYPE_CHECKING:
    from fdi_lib.manifest.settings import StorageSettings

UNFINISHED = ".fdi-unfinished/"  # below a local root: files being written, and those that killed writers left
UNFINISHED_S = 60.0  # a file there that nothing was written to for so long is nobody's
UNKNOWN_SIZE = -1
# Versions of entries that nobody may read: what leads where a walk may not go (nothing below it is listed), and what is
# neither folder nor file: a pipe, a socket, a device.
LEFT_OUT, NO_FILE = "(link into the output)", "(no regular file)"
UNREAD = (LEFT_OUT, NO_FILE)
MAX_SEGMENT_BYTES = 255  # as most file systems allow
_HOSTILE = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]")  # control characters, backslash, lone surrogates


class ObjectEntry(NamedTuple):
    """One listed object: path below the store's root, size in bytes, and a version that changes when the bytes do."""

    path: str
    size: int
    version: str


class Store(ABC):
    """Objects below one root. Picklable; opens its connection when first used."""

    @staticmethod
    def open(uri: str, storage: StorageSettings) -> Store:
        """Root a store at ``uri``: a local path, ``file://`` or ``s3://bucket/prefix``. Touches nothing yet.

        Raises:
            StorageRefusedError: no store is known for the URI's scheme.
        """
        # Imported here: both build on this file, and s3fs loads slowly where local runs don't need it.
        if scheme(uri) == "s3":
            from fdi_lib.storage.s3 import S3Store

            return S3Store.at_uri(uri, storage)
        path = local_path(uri)
        if path is None:
            raise StorageRefusedError(f"{uri}: no store for {scheme(uri)}://; use a local path, file:// or s3://")
        from fdi_lib.storage.local import LocalStore

        return LocalStore(path)

    @property
    def local_path(self) -> str | None:
        """The root as an absolute local path; None for a remote store."""
        return None

    @abstractmethod
    def uri(self, path: str = "") -> str:
        """What a person would write to name the object: an absolute local path, or ``s3://bucket/key``."""

    @abstractmethod
    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read ``length`` bytes from ``offset``, all by default; fewer where the object ends.

        Raises:
            FileNotFoundError: no such object.
            ItemError: ``UNSAFE_NAME``, as for every method that takes a path.
            StorageRefusedError: no permission; ``ObjectRefusedError`` if it is this object's alone that is missing.
            StorageOutageError: the store does not answer.
        """

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Create the object, durably and at once; False if it already exists (its bytes stay as they are).

        False may also mean that a first try arrived whose answer was lost: where that matters, read what is there.

        Raises:
            ItemError: ``OUTPUT_CONFLICT`` where a file lies at a folder's name, or a folder at the file's.
        """

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Write the object, over what was there; readers see the old or the new bytes, never a mixture."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Size in bytes; None if there is no such object."""

    @abstractmethod
    def walk(self, prefix: str = "", without: str | None = None) -> Iterator[ObjectEntry]:
        """List the objects whose path starts with ``prefix``, a stream sorted by path; nothing if there are none.

        What leads into the local folder ``without`` (only links can) is one entry of version ``LEFT_OUT``; a pipe, a
        socket or a device is one of version ``NO_FILE``.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object, if it is there."""

    @abstractmethod
    def is_object(self) -> bool:
        """True when the root itself names one object, not a folder."""

    @abstractmethod
    def check(self, for_writing: bool = False) -> None:
        """Fail early, before anything starts: is the root there (or, for writing, could it be made)? Leaves nothing.

        Raises:
            StorageRefusedError: no such folder or bucket, no permission, no credentials.
            StorageOutageError: the store does not answer.
        """

    @abstractmethod
    def at(self, uri: str) -> tuple[Store, str]:
        """The store and path of an absolute URI: this store if the URI lies below its root, else its folder's."""

    def remove_unfinished(self) -> None:
        """Remove what killed writers left behind; a live one that is slower than ``UNFINISHED_S`` meets an outage."""
        return  # a PUT leaves nothing

    def exists(self, path: str) -> bool:
        """True if there is such an object, whether or not it may be read."""
        try:
            return self.size(path) is not None
        except ObjectRefusedError:
            return True


def check_name(path: str) -> str:
    """Return ``path`` if it is a plain relative path that any store can hold and that stays below its root.

    Raises:
        ItemError: ``UNSAFE_NAME``: absolute, ``.``, ``..`` or empty segments, backslashes, control characters,
            not Unicode, or a segment above 255 bytes.
    """
    if _HOSTILE.search(path) or any(s in ("", ".", "..") for s in path.split("/")):
        raise ItemError(Reason.UNSAFE_NAME, f"{printable(path)!r} is not a plain relative path")
    if any(len(s.encode()) > MAX_SEGMENT_BYTES for s in path.split("/")):
        raise ItemError(Reason.UNSAFE_NAME, f"{path[:80]!r}...: a name is longer than {MAX_SEGMENT_BYTES} bytes")
    return path


def printable(name: str) -> str:
    """The name with each byte that is not UTF-8 written out after a backslash, so that it can be shown and stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def extension(path: str) -> str:
    """Extension in lower case without the dot; empty for none (a leading dot is part of the name)."""
    return posixpath.splitext(path)[1][1:].lower()


def is_absolute(path: str) -> bool:
    """True for a URI or an absolute local path; False for a path below a store's root."""
    return path.startswith("/") or bool(scheme(path))
