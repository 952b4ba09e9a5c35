"""A picture list is read as it says, and what is wrong with one is named."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import pyvips

from fdi_lib.errors import ManifestError
from fdi_lib.training.pictures import StoredTiles, read_list, whole_pictures

HEAD = "picture\tgroup_id\tkind\tlicence\tsha256\tsplit\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").write_bytes(b"")
    return tmp_path / "list.tsv"


def test_the_rows_of_a_split_come_in_order(table: Path) -> None:
    rows = [f"a.jpg\tg{i}\tphoto\tCC0\t{i}\t{split}\n" for i, split in enumerate(("train", "test", "train"))]
    table.write_text(HEAD + "".join(rows))
    found = read_list(table, table.parent, "train")
    assert [(p.path, p.group_id, p.sha256) for p in found] == [(table.parent / "a.jpg", g, s) for g, s in
                                                               (("g0", "0"), ("g2", "2"))]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column picture, group_id, kind, split, sha256"),
        (
            HEAD.replace("sha256\tsplit", "hash\tpart"),
            "data.pictures = .*no column split, sha256; the first line names",
        ),
        (HEAD.replace("\t", ","), "has no column"),
        (HEAD + "a.jpg\tg\tphoto\tCC0\n", "line 2 has no split"),
        (HEAD + "a.jpg\tg\tphoto\tCC0\t0\ttrain\n\t\tphoto\tCC0\t0\ttest\n", "line 3 has no picture"),
        (HEAD + "a.jpg\tg\tpaint\tCC0\t0\ttrain\n", "line 2: no such kind: paint; use one of photo, garment, plate"),
        (HEAD + "a.jpg\tg\tphoto\tCC0\t0\ttest\n", "no picture of split train"),
        (HEAD + "b.jpg\tg\tphoto\tCC0\t0\ttrain\n", "1 listed pictures are missing"),
    ],
)
def test_a_list_that_can_t_be_used_is_refused_by_name(table: Path, text: str, message: str) -> None:
    table.write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_list(table, table.parent, "train")


def test_stored_tiles_are_the_tiles_and_travel_as_a_path(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    stored = StoredTiles.write(tmp_path / "new" / "tiles.npy", list(tiles))
    assert len(stored) == 5
    np.testing.assert_array_equal(stored[3], tiles[3])
    sent = pickle.dumps(stored)
    assert len(sent) < 1000
    np.testing.assert_array_equal(np.stack(list(pickle.loads(sent))), tiles)


def test_whole_pictures_are_photographs_that_nobody_cut(table: Path) -> None:
    rows = []
    sizes = {"one": (900, 500), "cut1": (800, 800), "cut2": (800, 800), "small": (380, 900), "coat": (900, 900)}
    for name, (width, height) in sizes.items():
        data = (pyvips.Image.black(width, height, bands=3) + 90).cast("uchar").jpegsave_buffer()
        (table.parent / f"{name}.jpg").write_bytes(data)
        kind, group = ("garment" if name == "coat" else "photo"), name.rstrip("12")
        rows.append(f"{name}.jpg\t{group}\t{kind}\tCC0\t{hashlib.sha256(data).hexdigest()}\ttrain\n")
    table.write_text(HEAD + "".join(rows))
    pictures = read_list(table, table.parent, "train")
    found = [(picture.group_id, image.shape) for picture, image in whole_pictures(pictures)]
    assert found == [("one", (250, 450, 3))]  # at a third its shorter side is too short; so is that of `small` at all
