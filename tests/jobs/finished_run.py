"""A small finished run for tests of the commands that read one: real files, a real ledger, no models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyvips

from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import LEDGER
from fdi_lib.storage import ledger
from fdi_lib.storage.provenance import sidecar
from fdi_lib.storage.run import Run, fingerprint, finish_run, open_run
from fdi_lib.storage.sources import list_objects

EVIL = "<script>alert(1)<script>.jpg"


def jpeg(level: int, side_px: int = 40) -> bytes:
    """A plain grey-level JPEG."""
    return pyvips.Image.new_from_array(np.full((side_px, side_px, 3), level, np.uint8)).jpegsave_buffer(Q=90)


class Archive:
    """Collects source images with their fate, then writes the run."""

    def __init__(self, folder: Path) -> None:
        self.source, self.output = folder / "in", folder / "out"
        self.manifest = RestoreManifest.model_validate(
            {"kind": "restore", "source": {"uri": str(self.source)}, "output": {"uri": str(self.output)}}
        )
        self.run: Run = open_run(self.manifest, {"base": {"sha256": "b" * 64, "licence": "Apache-2.0"}}, {"threads": 1})
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, data: bytes, status: str, output: bytes | None = None, **columns: Any) -> None:
        """Write a source image and what became of it."""
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        row = dict.fromkeys(LEDGER.names) | {
            "schema_version": 1, "image_id": name, "shard": "", "source_uri": str(path), "source_bytes": len(data),
            "source_sha256": hashlib.sha256(data).hexdigest(), "status": status, "reason": "", "detail": "",
            "route": "", "composition": "", "scores": [], "residual": 0.0, "output_uri": "", "output_sha256": "",
            "seconds": 0.5, "attempt": 1, "worker": "w",
        }  # fmt: skip
        store = self.run.store
        if output is not None:
            place = f"{'review' if status == 'review' else 'images'}/{name}"
            store.create(place, output)
            written = {"output_uri": store.uri(place), "output_sha256": hashlib.sha256(output).hexdigest()}
            row |= {**written, "output_bytes": len(output)}
            if status != "review":
                store.create(f"{place}.json", sidecar(row | columns, self.run.info))
        if status in ("review", "failed"):
            store.create(f"{status}/{name}.json", b"{}")
        self.rows.append(row | columns)

    def finish(self) -> str:
        """Write ledger and run.json; return the output's URI."""
        ledger.write_part(self.run.store, pa.Table.from_pylist(self.rows, schema=LEDGER), 1)
        listing = list_objects(self.manifest.source, 100)
        found = fingerprint(entry for block in listing for entry in block)
        finish_run(self.run, listing.ignored, found)
        return str(self.output)


def finished_run(folder: Path) -> str:
    """One image of each status, two restored; return the output's URI."""
    archive = Archive(folder)
    archive.add("a/1.jpg", jpeg(90), "restored", jpeg(100), route="noise", composition="noise:1.00", residual=0.1)
    archive.add(
        "a/2.jpg", jpeg(91), "restored", jpeg(101), route="haze>noise", composition="haze:1.00>noise:0.71", residual=0.4
    )
    archive.add("a/3.jpg", jpeg(92), "clean", jpeg(92))
    archive.add("b/4.jpg", jpeg(93), "kept", jpeg(93), reason="unsupported_pixels")
    archive.add(f"b/{EVIL}", jpeg(94), "review", reason="unknown", detail="<b>odd</b>")
    archive.add("b/6.jpg", b"", "failed", reason="empty_file")
    return archive.finish()
