"""``fdi pack SOURCE DEST``: a folder or prefix of images becomes shards.

Does NOT know how shards are written (``fdi_lib/storage/pack.py``).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fdi_lib.errors import ManifestError
from fdi_lib.manifest.locations import has_secret, is_inside, redact
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.storage.pack import pack
from fdi_lib.storage.store import Store

MAX_SHARD_MIB = 4096  # S3 takes 5 GiB in one request


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = argparse.ArgumentParser(prog="fdi pack", description="Pack a folder or prefix of images into shards.")
    arguments.add_argument("source", metavar="SOURCE", help="folder or prefix of images; read only")
    arguments.add_argument("dest", metavar="DEST", help="folder or prefix for the shards, outside SOURCE")
    arguments.add_argument("--format", choices=("webdataset", "parquet"), default="webdataset")
    arguments.add_argument("--shard-mib", type=int, default=256, metavar="N", help="size of a shard (default: 256)")
    arguments.add_argument("--endpoint-url", help="S3 endpoint (default: AWS_ENDPOINT_URL)")
    arguments.add_argument("--region", help="S3 region (default: the environment's or the profile's)")
    return arguments


def main(argv: list[str]) -> dict[str, Any]:
    """Pack, and return the summary: images, companions, shards, bytes, ignored, output.

    Raises:
        ManifestError: a place or number that can't work, or no image there; nothing was written.
        StorageRefusedError, StorageOutageError, RunConflictError: as the stores say.
    """
    options = parser().parse_args(argv)
    for key, uri in (("SOURCE", options.source), ("DEST", options.dest)):
        if has_secret(uri):
            remedy = "credentials come from the environment, a profile or the instance role"
            raise ManifestError("this URI carries a credential", key=key, value=redact(uri), remedy=remedy)
    if is_inside(options.dest, options.source) or is_inside(options.source, options.dest):
        remedy = "name a destination outside the source, which is never written to"
        raise ManifestError("one lies inside the other", key="DEST", value=options.dest, remedy=remedy)
    if not 1 <= options.shard_mib <= MAX_SHARD_MIB:
        value, remedy = str(options.shard_mib), f"use 1 to {MAX_SHARD_MIB}"
        raise ManifestError("out of range", key="--shard-mib", value=value, remedy=remedy)
    storage = StorageSettings(endpoint_url=options.endpoint_url, region=options.region)
    source, dest = Store.open(options.source, storage), Store.open(options.dest, storage)
    source.check()
    dest.check(for_writing=True)
    summary = pack(source, dest, options.format, options.shard_mib * 2**20)
    if not summary["images"]:
        remedy = "name a folder or prefix that holds images"
        raise ManifestError("holds no image", key="SOURCE", value=options.source, remedy=remedy)
    return summary


if __name__ == "__main__":
    from jobs.cli import main as cli

    sys.exit(cli(["pack", *sys.argv[1:]]))
