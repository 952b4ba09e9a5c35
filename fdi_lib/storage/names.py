"""Names found in archives: made plain, harmless and unique, always in the same way. Knows no store and no image."""

from __future__ import annotations

import hashlib
import posixpath
import re

from fdi_lib.errors import ItemError
from fdi_lib.storage.store import check_name


def plain(name: str) -> str:
    """``./a//b`` as ``a/b``: what every archiver takes for the same name. Hostile names stay as they are."""
    return name if name.startswith("/") or ".." in name.split("/") else posixpath.normpath(name)


def harmless(name: str) -> str:
    """Return the name if it is safe; else one segment that looks like it, told apart from others by a hash."""
    try:
        return check_name(name)
    except ItemError:
        digest = hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=6).hexdigest()
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
