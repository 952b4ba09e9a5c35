"""What the fault tests share: a source of 40 images behind the proxy, a job's process, and what a run left.

Its pytest fixtures are for the whole file that imports them. Does NOT know any fault.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips

from fdi_lib.manifest import StorageSettings
from fdi_lib.storage import ledger
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.store import Store
from tests.faults.proxy import FaultProxy, Record
from tests.faults.s3_job import S3Job
from tests.s3 import S3Server

IMAGES = 40
STATUSES = {"restored": 25, "clean": 8, "kept": 1, "review": 3, "failed": 3}
MAY_DIFFER = ("seconds", "worker")  # of a row, from run to run
_MANIFEST = """
kind: restore
source: {{uri: {source}, storage: {{endpoint_url: "{url}", region: us-east-1}}}}
output:
  uri: {output}
  storage: {{endpoint_url: "{url}", region: us-east-1}}
pools:
  decode: {{cpus: 0.5, memory_gib: 0.1}}
  classify: {{cpus: 0.4, memory_gib: 0.1, max: 1, batch: 4}}
  restore: {{cpus: 0.5, memory_gib: 0.1, max: 1, batch: 4}}
limits: {{max_failed_fraction: 0.5, wait_s: 60}}
"""


def png(mean: int, seed: int, bits: int = 8) -> bytes:
    """A small picture of a mean that tells the fake classifier what it needs."""
    pixels = np.random.default_rng(seed).integers(mean - 5, mean + 6, (40, 56, 3)).astype(np.uint8)
    return pyvips.Image.new_from_array(pixels[..., 0] if bits == 1 else pixels).pngsave_buffer(bitdepth=bits)


def fill(source: Store) -> None:
    """Two tars and plain files: 40 images that come to every status, and a text that is none."""
    means = [20] * 8 + [60] * 3 + [100] * 12 + [140] * 6 + [200] * 7
    files = {f"{number:02d}.png": png(mean, number) for number, mean in enumerate(means)}
    files |= {"36.png": png(100, 36, bits=1), "37.jpg": b"", "38.png": b"text", "39.png": png(100, 39)[:-200]}
    names = sorted(files)
    shards = {f"boxes/{box}.tar": tar_bytes([(n, files[n]) for n in names[start::3]]) for start, box in enumerate("ab")}
    plain = {f"plain/{name}": files[name] for name in names[2::3]}
    for path, data in (shards | plain | {"plain/notes.txt": b"no image"}).items():
        assert source.create(path, data)


@dataclass
class Bench:
    """The server, the proxy before it, a job's process, and the run that nothing disturbed."""

    server: S3Server
    proxy: FaultProxy
    job: S3Job
    bucket: str
    folder: Path
    outputs: int = 0

    @property
    def source(self) -> Store:
        """The source, past the proxy."""
        return self.store("archive/masters")

    def store(self, prefix: str) -> Store:
        """A prefix of the bucket, past the proxy."""
        storage = StorageSettings(endpoint_url=self.server.endpoint_url, region=self.server.region)
        return Store.open(f"s3://{self.bucket}/{prefix}", storage)

    def new_run(self) -> tuple[str, Store]:
        """A manifest that leads through the proxy into an output of its own; the output past the proxy."""
        self.outputs += 1
        output = self.store(f"restored/{self.outputs}")
        path = self.folder / f"{self.outputs}.yaml"
        path.write_text(_MANIFEST.format(source=self.source.uri(), output=output.uri(), url=self.proxy.url))
        return str(path), output

    def restore(self, manifest: str, *overrides: str) -> dict[str, Any]:
        """Run, or resume; ``{"summary"}`` or ``{"error", "exit_code", "message"}``."""
        return self.job.run("restore", manifest, overrides=list(overrides))


def start_bench(server: S3Server, folder: Path) -> Iterator[Bench]:
    """A bench with its source filled; closes everything that it started."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and k != "RAY_ADDRESS"}
    # The endpoint is the manifest's alone: a store that was opened without it would be found out.
    environment |= server.environment() | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "SOURCE_DATE_EPOCH": "1700000000"}
    with pytest.MonkeyPatch.context() as patch, FaultProxy(server.endpoint_url) as proxy:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
            patch.setenv(name, server.environment()[name])
        job = S3Job(environment, folder / "job.log")
        try:
            bench = Bench(server, proxy, job, server.make_bucket(), folder)
            fill(bench.source)
            yield bench
        finally:
            job.close()
            server.gateway.start()  # the next tests want it


# ---- what a run left


def rows_of(output: Store) -> dict[str, dict[str, Any]]:
    """Effective rows by image, without what may differ; outputs below the output's root."""
    rows = ledger.load_effective(output).to_pylist()
    root = output.uri() + "/"
    return {
        row["image_id"]: {key: value for key, value in row.items() if key not in MAY_DIFFER}
        | {"output_uri": row["output_uri"].removeprefix(root)}
        for row in rows
    }


def tree(output: Store) -> dict[str, str]:
    """Hashes of images, sidecars and what was set aside, by path; the output's own root is not part of the bytes."""
    root = output.uri().encode()
    paths = [e.path for e in output.walk() if e.path.startswith(("images/", "review/", "failed/"))]
    with ThreadPoolExecutor(8) as pool:
        data = list(pool.map(output.read, paths))
    return {p: hashlib.sha256(d.replace(root, b"OUTPUT")).hexdigest() for p, d in zip(paths, data, strict=True)}


def check_accounted(output: Store, undisturbed: Store) -> None:
    """Nothing lost, nothing done twice: the same rows and bytes as undisturbed, and one ledger row for each image."""
    assert rows_of(output) == rows_of(undisturbed)
    assert tree(output) == tree(undisturbed)
    written = Counter(name for part in ledger.scan(output, ["image_id"]) for name in part["image_id"].to_pylist())
    assert len(written) == IMAGES and set(written.values()) == {1}


def created(records: list[Record], output: Store) -> Counter[str]:
    """How often each image, sidecar and ledger part was created, by what the server itself said."""
    root = output.uri().removeprefix("s3://").partition("/")[2] + "/"
    return Counter(
        record.request.key
        for record in records
        if record.request.method == "PUT"
        and record.upstream == 200
        and record.request.key.removeprefix(root).startswith(("images/", "ledger/"))
    )
