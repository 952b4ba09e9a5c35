"""Forced images get their adapter and no views; all others reach the classifier as they were."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from fdi_lib.core.batches import unpack
from fdi_lib.manifest import RestoreManifest, RestoreSettings
from fdi_lib.stages.decode import Decode, pack_entries
from fdi_lib.storage.sources import list_objects
from jobs.forced import ClassifyOthers, decode_or_force
from tests import fakes


def png(mean: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), mean, np.uint8)).save(sink, "png")
    return sink.getvalue()


def test_forced_images_pass_the_classifier_by(tmp_path: Path) -> None:
    rows = {"1.png": "", "2.png": "scratch", "3.png": "noise", "4.png": "", "5.png": "noise"}
    for name, mean in zip(rows, (20, 20, 100, 100, 0), strict=True):
        (tmp_path / name).write_bytes(png(mean) if mean else b"")
    (tmp_path / "list.csv").write_text("uri,adapter\n" + "".join(f"{k},{v}\n" for k, v in rows.items()))
    manifest = RestoreManifest.model_validate({
        "kind": "restore", "source": {"uri": str(tmp_path / "list.csv"), "format": "inventory"},
        "output": {"uri": str(tmp_path.parent / "out")}, "pools": {"classify": {"batch": 3}},
    })  # fmt: skip
    entries = [entry for block in list_objects(manifest.source, 9) for entry in block]
    restore = RestoreSettings(strength=0.25, adapters={"noise": {"strength": 0.5}})
    batches = list(decode_or_force(Decode(manifest, fakes.SPEC), restore, pack_entries(entries)))
    decided = ClassifyOthers(fakes.FakeClassifier, "review")(pa.concat_tables(batches))
    found = {row["image_id"]: row for table, _ in unpack(decided) for row in table.to_pylist()}
    assert {i: (row["verdict"], row["composition"], row["status"]) for i, row in found.items()} == {
        "1.png": ("clean", "", "clean"),
        "2.png": ("forced", "scratch:0.25", ""),
        "3.png": ("forced", "noise:0.50", ""),
        "4.png": ("single", "noise:1.00", ""),
        "5.png": ("", "", "failed"),
    }
    assert found["2.png"]["source_sha256"] and "inventory" in found["2.png"]["detail"] and not found["2.png"]["scores"]
