"""Where Ray Train keeps checkpoints, and where finished weights go: a local folder or a prefix on S3.

Credentials come from the environment, a profile or the instance's role, as everywhere; a worker looks for its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow.fs as pafs

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import StorageSettings
from fdi_lib.manifest.locations import local_path, scheme
from fdi_lib.storage.store import Store

# Many S3-compatible stores don't know the newer checksums of multipart uploads.
CHECKSUMS = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


def filesystem(uri: str, storage: StorageSettings) -> tuple[pafs.FileSystem, str]:
    """Return pyarrow's file system and the path in it.

    Raises:
        ManifestError: neither a local path nor ``s3://``.
    """
    path = local_path(uri)
    if path is not None:
        return pafs.LocalFileSystem(), path
    if scheme(uri) != "s3":
        raise ManifestError("no store for it", key="checkpoint.uri", value=uri, remedy="use a local path or s3://")
    for name, value in CHECKSUMS.items():
        os.environ.setdefault(name, value)
    endpoint = storage.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    given: dict[str, str] = {}
    if endpoint:
        given["scheme"], _, given["endpoint_override"] = endpoint.rstrip("/").rpartition("://")
    region = storage.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or endpoint:
        given["region"] = region or "us-east-1"
    return pafs.S3FileSystem(**given), uri.removeprefix("s3://").rstrip("/")


def local_folder(uri: str) -> Path:
    """The folder that a location names.

    Raises:
        ManifestError: it is not on this machine.
    """
    path = local_path(uri)
    if path is None:
        raise ManifestError("is written to a local folder only", key="output", value=uri, remedy="copy it there after")
    return Path(path)


def publish(folder: Path, uri: str, storage: StorageSettings, last: Mapping[str, bytes]) -> None:
    """Copy a finished folder's files to where weights are looked for; ``last`` names what is written at the end.

    Each file appears whole. Whoever finds the last one finds all of them.
    """
    store = Store.open(uri, storage)
    for name in last:
        store.delete(name)
    # What says whose they are comes first: an interrupted copy is known again.
    for path in sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.name != "config.json", p)):
        store.replace(path.relative_to(folder).as_posix(), path.read_bytes())
    for name, data in last.items():
        store.replace(name, data)
