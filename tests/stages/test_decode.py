"""Decode makes rows and views, says why an image is bad, and skips what is done."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fdi_lib.core.batches import unpack
from fdi_lib.core.views import ViewSpec
from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import DECISION, LEDGER
from fdi_lib.stages.decode import Decode, pack_entries
from fdi_lib.storage.ledger import done_index, write_part
from fdi_lib.storage.sources import list_objects
from fdi_lib.storage.store import Store


@pytest.fixture
def manifest(tmp_path: Path) -> RestoreManifest:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 30, 3), 50 * number, np.uint8)).save(source / f"{number}.png")
    (source / "3.png").write_bytes(b"")
    (source / "4.png").write_text("no picture")
    Image.fromarray(np.zeros((8, 8), bool)).save(source / "5.tif")
    settings = {"kind": "restore", "source": {"uri": str(source)}, "output": {"uri": str(tmp_path / "out")}}
    return RestoreManifest.model_validate(settings | {"pools": {"classify": {"batch": 4}}})


def output(manifest: RestoreManifest) -> Store:
    return Store.open(manifest.output.uri, manifest.output.storage)


def test_rows_say_what_was_seen_and_views_belong_to_the_good_ones(manifest: RestoreManifest) -> None:
    entries = [entry for block in list_objects(manifest.source, 10) for entry in block]
    batches = list(Decode(manifest, ViewSpec(16, 1), lambda: done_index(output(manifest)))(pack_entries(entries)))
    assert [batch.num_rows for batch in batches] == [1, 1]  # a row is a batch: Ray Data must not split it
    tables, views = zip(*(part for batch in batches for part in unpack(batch)), strict=True)
    assert [table.num_rows for table in tables] == [4, 2] and all(table.schema == DECISION for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["status"] for row in rows] == ["", "", "", "failed", "failed", "kept"]
    assert [row["reason"] for row in rows[3:]] == ["empty_file", "not_an_image", "unsupported_pixels"]
    assert rows[0]["width"] == 30 and rows[0]["pages"] == [{"width": 30, "height": 20}]
    data = Path(manifest.source.uri, "0.png").read_bytes()
    assert rows[0]["source_sha256"] == hashlib.sha256(data).hexdigest()
    assert [view.shape for view in views] == [(3, 2, 16, 16, 3), (0, 2, 16, 16, 3)]
    assert [int(view[0].mean()) for view in views[0]] == [0, 50, 100]


def test_done_images_are_skipped_and_a_selection_is_kept_to(manifest: RestoreManifest) -> None:
    entries = [entry for block in list_objects(manifest.source, 10) for entry in block]

    def ids(decode: Decode) -> list[str]:
        return [i for b in decode(pack_entries(entries)) for rows, _ in unpack(b) for i in rows["image_id"].to_pylist()]

    row = dict.fromkeys(LEDGER.names) | {"image_id": "1.png", "attempt": 1}
    write_part(output(manifest), pa.Table.from_pylist([row], schema=LEDGER), 1)
    done = done_index(output(manifest))
    assert ids(Decode(manifest, ViewSpec(16, 1), lambda: done)) == ["0.png", "2.png", "3.png", "4.png", "5.tif"]
    assert ids(Decode(manifest, ViewSpec(16, 1), lambda: done, frozenset({"1.png"}))) == ["1.png"]
