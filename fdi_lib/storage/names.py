"""Names found in archives: made plain, harmless and unique, always in the same way. Knows no store and no image."""

from __future__ import annotations

import hashlib
import posixpath
import re

from fdi_lib.errors import ItemError
from fdi_lib.records import Reason
from fdi_lib.storage.store import MAX_SEGMENT_BYTES, check_name

_ADDED_BYTES = 15  # what outputs may add to a segment: ".tiff.json", "~2"
_MAX_PATH_BYTES = 900  # S3 allows 1,024 for the whole key, with the output's own prefix before it


def plain(name: str) -> str:
    """``./a//b`` as ``a/b``: what every archiver takes for the same name. Hostile names stay as they are."""
    return name if name.startswith("/") or ".." in name.split("/") else posixpath.normpath(name)


def check_image_name(path: str) -> str:
    """Return ``path`` if it is a plain relative path, with room for what an output's name has more than its image's.

    Raises:
        ItemError: ``UNSAFE_NAME``: see :func:`check_name`; a segment above 240 bytes, or all of it above 900.
    """
    check_name(path)
    longest = MAX_SEGMENT_BYTES - _ADDED_BYTES
    if len(path.encode()) > _MAX_PATH_BYTES or any(len(s.encode()) > longest for s in path.split("/")):
        too_long = f"a name is longer than {longest} bytes, or the path than {_MAX_PATH_BYTES}"
        raise ItemError(Reason.UNSAFE_NAME, f"{path[:80]!r}...: {too_long}")
    return path


def harmless(name: str) -> str:
    """Return the name if it is safe; else one segment that looks like it, told apart from others by a hash."""
    try:
        return check_image_name(name)
    except ItemError:
        # Long enough that nobody finds two names with one hash: one image would stand for both.
        digest = hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        return f"unsafe-{digest}-{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[-80:]}"


def unique(name: str, taken: set[str]) -> str:
    """Return the name, or ``name~2.ext`` and so on where it is taken, and add it to ``taken``."""
    stem, dot, suffix = name.rpartition(".") if "." in posixpath.basename(name) else (name, "", "")
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{stem}~{count}{dot}{suffix}"
    taken.add(free)
    return free
