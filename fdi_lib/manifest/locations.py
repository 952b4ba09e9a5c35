"""Where things are: what a URI may look like, and whether one place lies inside another.

Knows local paths, ``file://`` and ``s3://`` as text (plus symbolic links on the local disk). Does NOT know how to open
a store, or whether anything exists there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from fdi_lib.errors import ManifestError

_SECRET_KEY = re.compile(r"secret|token|passw|signature|credential|accesskey|api_?key|^sig$", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
CREDENTIALS_REMEDY = "credentials come from the environment, a profile or the instance role, never from a manifest"


def problem(text: str, *, remedy: str = "", key: str = "") -> PydanticCustomError:
    """A validation problem that carries its remedy; ``key`` names the culprit where the validator sees several."""
    return PydanticCustomError("fdi", "{problem}", {"problem": text, "remedy": remedy, "key": key})


def redact(text: str) -> str:
    """``text`` without what may be a secret in it: user information and query of a URI become ``***``."""
    if "://" not in text and not has_secret(text):
        return text
    return _QUERY.sub("?***", _USERINFO.sub("***@", text))


def has_secret(uri: str) -> bool:
    """True when ``uri`` carries user information, or a query parameter that is named like a credential."""
    query = " ".join(re.split(r"[?#]", uri)[1:]).replace(" ", "&")
    return bool(_USERINFO.search(uri)) or any(
        _SECRET_KEY.search(k) for k, _ in parse_qsl(query, keep_blank_values=True)
    )


def looks_secret(name: str) -> bool:
    """True for the name of a key that people use for credentials."""
    return bool(_SECRET_KEY.search(name.replace("-", "").replace("_", ""))) or bool(_SECRET_KEY.search(name))


def scheme(uri: str) -> str:
    """The scheme in lower case; empty for a plain path."""
    found = _SCHEME.match(uri)
    return found.group(1).lower() if found else ""


def local_path(uri: str) -> str | None:
    """The absolute local path of a plain path or a ``file://`` URI; None for anything else."""
    if not scheme(uri):
        return os.path.abspath(os.path.expanduser(uri))
    return os.path.abspath(unquote(urlsplit(uri).path)) if scheme(uri) == "file" else None


def on_this_machine(uri: str, key: str) -> Path:
    """The path of something that is read from a disk.

    Raises:
        ManifestError: it lies elsewhere.
    """
    path = local_path(uri)
    if path is None:
        raise ManifestError("is not on this machine", key=key, value=uri, remedy="copy it to a disk first")
    return Path(path)


def is_inside(inner: str, outer: str, inner_endpoint: str | None = None, outer_endpoint: str | None = None) -> bool:
    """True when ``inner`` is ``outer`` or lies below it, compared by path segment, local links resolved.

    Args:
        inner: URI or local path.
        outer: URI or local path.
        inner_endpoint: S3 endpoint of ``inner``; two endpoints are two stores. None is the environment's.
        outer_endpoint: the same for ``outer``.
    """
    a, b = _segments(inner, inner_endpoint), _segments(outer, outer_endpoint)
    return a[: len(b)] == b


def _segments(uri: str, endpoint_url: str | None) -> tuple[str, ...]:
    path = local_path(uri)
    if path is not None:
        return ("", *(s for s in os.path.realpath(path).split(os.sep) if s))
    endpoint = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return (scheme(uri), endpoint.rstrip("/").lower(), *(s for s in uri.split("://", 1)[1].split("/") if s))


def check_no_secret(uri: str) -> str:
    """Refuse credentials inside a URI; the message never repeats them."""
    if has_secret(uri):
        raise problem("this URI carries a credential", remedy=CREDENTIALS_REMEDY)
    return uri


def _check_location(uri: str) -> str:
    """Refuse what no store can open, and make a relative local path absolute (workers may run in another folder)."""
    check_no_secret(uri)
    if not uri.strip() or "\0" in uri:
        raise problem("must not be empty", remedy="write a local path or s3://bucket/prefix")
    if scheme(uri) not in ("", "file", "s3"):
        raise problem(f"{scheme(uri)}:// is not supported", remedy="use a local path, file:// or s3://")
    if scheme(uri) == "s3":
        bucket, *rest = uri.split("://", 1)[1].split("/")
        if not bucket:
            raise problem("names no bucket", remedy="write s3://bucket/prefix")
        if {".", ".."} & set(rest):
            raise problem("'.' and '..' mean nothing in a key", remedy="write the prefix in full")
        return uri.rstrip("/")
    return uri if scheme(uri) == "file" else str(local_path(uri))


SafeText = Annotated[str, AfterValidator(check_no_secret)]
"""A path, URI or hub id without credentials in it."""

Location = Annotated[str, AfterValidator(_check_location)]
"""A place a store can open: absolute local path, ``file://`` or ``s3://``, without credentials."""


def refuse_secret(name: str, value: str | None) -> None:
    """Refuse a command-line argument that carries a credential; the message doesn't repeat it.

    Raises:
        ManifestError: it does.
    """
    if value and has_secret(value):
        raise ManifestError("carries a credential", key=name, file="command line", remedy=CREDENTIALS_REMEDY)
