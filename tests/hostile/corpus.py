"""The whole corpus: every hostile image file, and a source that holds them all, in files, tars and Parquet shards."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fdi_lib.records import Reason
from tests.hostile import jpegs, packets, pngs, strangers, tiffs
from tests.hostile.cases import DECODED, Case, damaged, honest
from tests.hostile.names import IGNORED, ODD, UNSAFE, on_disk
from tests.hostile.shards import Shard, member, parquet, pax, record, rows_table, shards, tar

_PER_SHARD = 40


@cache
def images() -> tuple[Case, ...]:
    """Every hostile image file, always in the same order."""
    return (*damaged(), *jpegs.cases(), *pngs.cases(), *tiffs.cases(), *packets.cases(), *strangers.cases())


@dataclass
class Source:
    """What lies in a hostile source.

    Args:
        images: outcomes by image id, for all whose id is certain.
        altered: ids of images that nobody knows the looks of.
        unsafe: images that must fail for their names, by the shard they are in ("" for files).
        ignored: objects that are no images, by extension.
    """

    images: dict[str, frozenset[str]] = field(default_factory=dict)
    altered: set[str] = field(default_factory=set)
    unsafe: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, shard: Shard) -> None:
        self.images |= shard.images
        self.unsafe[shard.path] += shard.unsafe

    @property
    def count(self) -> int:
        return len(self.images) + self.unsafe.total()


def lay_out(folder: Path) -> Source:
    """Write the corpus below a folder: the images in turn as files, members and rows; then shards, names, links."""
    found = Source()
    for place, cases in (("files", images()[::3]), ("tars", images()[1::3]), ("rows", images()[2::3])):
        for at in range(0, len(cases), _PER_SHARD):
            _write_images(folder, f"{place}/{at:04d}", place, cases[at : at + _PER_SHARD], found)
    for shard in [*shards(), _named_members(), _named_rows()]:
        _write(folder / shard.path, shard.data)
        found.add(shard)
    _write_named(folder / "names", found)
    _write_links(folder / "links", found)
    return found


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_images(folder: Path, path: str, place: str, cases: Iterable[Case], found: Source) -> None:
    if place == "files":
        for case in cases:
            _write(folder / path / case.name, case.data)
    elif place == "tars":
        path += ".tar"
        _write(folder / path, tar(*(member(case.name, case.data) for case in cases)))
    else:
        path += ".parquet"
        _write(folder / path, parquet(rows_table([case.name for case in cases], [case.data for case in cases])))
    found.images |= {f"{path}/{case.name}": case.outcomes for case in cases}
    found.altered |= {f"{path}/{case.name}" for case in cases if case.altered}


def _named(path: str, data: bytes, unsafe: int) -> Shard:
    return Shard(path, data, {f"{path}/{name}": frozenset({DECODED}) for name in ODD}, unsafe)


def _named_members() -> Shard:
    nul = pax(record(b"path", b"nul\0.png"))  # which a plain header cannot hold
    return _named("named.tar", tar(*(member(name) for name in [*ODD, *UNSAFE]), nul, member("x.png")), len(UNSAFE) + 1)


def _named_rows() -> Shard:
    names = [*ODD, *UNSAFE, "nul\0.png"]
    names = [name for name in names if name.isprintable() or name in ODD or "\0" in name]
    data = parquet(rows_table(names, [honest()["plain.png"]] * len(names)))
    return _named("named.parquet", data, len(names) - len(ODD))


def _write_named(folder: Path, found: Source) -> None:
    """Files with those of the names that files can have."""
    for name in on_disk(ODD):
        _write(folder / name, honest()["plain.png"])
        found.images[f"names/{name}"] = frozenset({DECODED})
    for name in on_disk(UNSAFE):
        _write(folder / name, honest()["plain.png"])
        found.unsafe[""] += 1
    for name in IGNORED:
        _write(folder / name, b"no image")
    found.ignored.update({"<script>alert(1)<": 1, '"onload=alert(1) x="': 1, "\u202etxt": 1, "\\xff": 1, "a\nb": 1})


def _write_links(folder: Path, found: Source) -> None:
    """Folders that are called like images, links that lead nowhere, in circles, or out."""
    _write(folder / "folder.png" / "inner.png", honest()["plain.png"])
    (folder / "empty.png").mkdir()
    (folder / "shard.tar").mkdir()
    for name, target in {
        "gone.png": "nowhere",
        "self.png": "self.png",
        "up": "..",
        "password.png": "/etc/passwd",
    }.items():
        os.symlink(target, folder / name)
    os.mkfifo(folder / "pipe.png")
    found.ignored["(no regular file)"] = 1
    outcomes = {"folder.png/inner.png": DECODED, "gone.png": Reason.MISSING_SOURCE, "self.png": Reason.MISSING_SOURCE,
                "password.png": Reason.NOT_AN_IMAGE}  # fmt: skip
    found.images |= {f"links/{name}": frozenset({str(outcome)}) for name, outcome in outcomes.items()}
