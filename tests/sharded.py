"""A source of one WebDataset shard, and a job without Ray that restores it: for tests of what becomes of shards."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from fdi_lib.core.batches import unpack
from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import DECISION
from fdi_lib.stages.classify import Classify
from fdi_lib.stages.decode import Decode, pack_entries
from fdi_lib.stages.restore import Restore
from fdi_lib.storage import ledger
from fdi_lib.storage.assemble import COMMITTED, assemble, contents
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.run import Run, open_run
from fdi_lib.storage.sources import list_objects
from fdi_lib.storage.store import Store
from tests import fakes


def png(mean: int, side_px: int = 40) -> bytes:
    pixels = np.random.default_rng(mean).integers(mean - 5, mean + 6, (side_px, side_px, 3)).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


# In no order of names: clean, damaged (two routes), unknown, broken, and what else lies in the samples.
MEMBERS: list[tuple[str, bytes]] = [
    ("z/0003.png", png(20)),
    ("z/0003.txt", b"a clean one"),
    ("0001.json", b'{"label": 1}'),
    ("0001.png", png(90)),
    ("0002.png", png(200)),
    ("0002.png.json", b"the user's own, under the sidecar's name"),
    ("0004.png", png(60)),
    ("0004.cls", b"7"),
    ("0005.jpg", b"broken"),
    ("0006.png", png(91)),
    ("notes.txt", b"of no image"),
]
DELIVERED = ["z/0003.png", "0001.png", "0002.png", "0006.png"]
OTHERS = {"z/0003.txt", "0001.json", "0002.png~2.json", "0004.cls", "notes.txt"}


class Sharded:
    """A source folder with ``boxes/a.tar``, an output, and the job's stages."""

    def __init__(self, folder: Path, layout: str, name: str = "out", members: Any = None, **settings: Any) -> None:
        self.tar, self.output = folder / "in/boxes/a.tar", folder / name
        self.tar.parent.mkdir(parents=True, exist_ok=True)
        self.tar.write_bytes(tar_bytes(members or MEMBERS))
        base = {"kind": "restore", "source": {"uri": str(folder / "in")}}
        output = {"uri": str(self.output), "layout": layout}
        self.manifest = RestoreManifest.model_validate(base | {"output": output} | settings)
        self.store = Store.open(self.manifest.output.uri, self.manifest.output.storage)
        self.source = Store.open(self.manifest.source.uri, self.manifest.source.storage)

    def open(self) -> Run:
        return open_run(self.manifest, fakes.describe(self.manifest.models), {"threads": 1})

    def units(self, images: int) -> Iterator[pa.Table]:
        """What is left to do, in units of one route."""
        done = ledger.done_index(self.store)
        entries = [entry for block in list_objects(self.manifest.source, 10) for entry in block]
        classify = Classify(fakes.FakeClassifier, "review")
        routes = defaultdict(list)
        for table in Decode(self.manifest, fakes.SPEC, lambda: done)(pack_entries(entries)):
            for rows, _ in unpack(classify(table)):
                for row in rows.to_pylist():
                    routes[row["route"]].append(row)
        for rows in routes.values():
            for start in range(0, len(rows), images):
                yield pa.Table.from_pylist(rows[start : start + images], schema=DECISION)

    def work(self, images: int = 2, stop_after: int | None = None) -> int:
        """Work on units, all or the first ones; return how many images that were."""
        stage = Restore(self.manifest, self.open().info, fakes.FakeRestorer)
        return sum(stage(unit, 1)["images"] for unit in list(self.units(images))[:stop_after])

    def assemble(self) -> bool:
        """Put every shard together; False if one has to wait."""
        committed = ledger.load_effective(self.store, COMMITTED)
        layout = self.manifest.output.layout
        entries = [entry for block in list_objects(self.manifest.source, 10) for entry in block]
        found = [contents(self.source, self.manifest.source, entry) for entry in entries]
        return all([assemble(self.store, self.source, shard, layout, committed) for shard in found])

    @property
    def shards(self) -> dict[str, bytes]:
        folder = self.output / "shards"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
