"""Pairs are found in folders, tars and Parquet files; what is no pair is named; both sides come upright."""

from __future__ import annotations

import tarfile
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pyvips

from fdi_lib.errors import ItemError, StorageRefusedError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.pairs import PairRef, Unpaired, decode_upright, list_pairs, read_pairs
from fdi_lib.storage.store import Store
from tests.storage.pictures import bare, picture, rich

LOCAL = StorageSettings()


def listed(root: Path | str, form: str) -> list[PairRef | Unpaired]:
    return list(list_pairs(str(root), form, LOCAL))


def contents(root: Path, refs: list) -> list[tuple[bytes, bytes]]:
    return [(read.degraded, read.clean) for read in read_pairs(Store.open(str(root), LOCAL), refs)]


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_folders_are_paired_by_path_without_extension(tmp_path):
    names = ["a", "a-1", "a.b", "box/a", "z"]
    files = {f"degraded/{name}.jpg": f"d {name}".encode() for name in names}
    files |= {f"clean/{name}.png": f"c {name}".encode() for name in names}
    files |= {"degraded/alone.png": b"", "clean/box/bare.png": b"", "clean/z.tif": b"", "clean/notes.txt": b""}
    found = listed(write(tmp_path, files), "pairs")
    refs = [item for item in found if isinstance(item, PairRef)]
    assert [ref.name for ref in refs] == ["a", "a-1", "a.b", "box/a"]
    assert contents(tmp_path, refs)[1] == (b"d a-1", b"c a-1")
    wrong = {item.name: item.detail for item in found if isinstance(item, Unpaired)}
    assert wrong == {
        "alone": "the clean picture is missing",
        "box/bare": "the degraded picture is missing",
        "z": "2 clean pictures of this name",
    }


def test_tars_hold_key_degraded_and_key_clean(tmp_path):
    members = [("x.clean.png", b"c x"), ("x.degraded.jpg", b"d x"), ("x.json", b"{}"), ("y.clean.png", b"c y")]
    write(tmp_path, {"s/1.tar": tar_bytes(members), "s/2.tar": tar_bytes(members[:2])[:2048]})
    found = listed(tmp_path, "shards")
    refs = [item for item in found if isinstance(item, PairRef)]
    assert [ref.name for ref in refs] == ["s/1.tar/x", "s/2.tar/x"]
    assert contents(tmp_path, refs) == [(b"d x", b"c x")] * 2
    assert [item.name for item in found if isinstance(item, Unpaired)] == ["s/1.tar/y", "s/2.tar"]  # the second is cut
    alone = listed(tmp_path / "s" / "1.tar", "shards")
    assert [item.name for item in alone] == ["1.tar/x", "1.tar/y"]
    assert contents(tmp_path / "s" / "1.tar", alone[:1]) == [(b"d x", b"c x")]


def test_names_are_compared_as_people_read_them(tmp_path):
    composed, decomposed = (normalize(form, "Müller") for form in ("NFC", "NFD"))
    files = {f"degraded/{composed}.png": b"d", f"clean/{decomposed}.png": b"c"}
    files["s/1.tar"] = tar_bytes([(f"{composed}.Degraded.png", b"d"), (f"{decomposed}.CLEAN.png", b"c")])
    write(tmp_path, files)
    (pair,), (tarred,) = listed(tmp_path, "pairs"), listed(tmp_path, "shards")
    assert pair.name == composed and contents(tmp_path, [pair, tarred]) == [(b"d", b"c")] * 2


def test_pictures_of_a_tar_that_are_no_side_are_named(tmp_path):
    members = [("x.degraded.png", b"d"), ("x.clean.png", b"c"), ("y.before.png", b"b"), ("z.png", b"z"), ("a.txt", b"")]
    write(tmp_path, {"1.tar": tar_bytes(members)})
    with tarfile.open(tmp_path / "1.tar", "a") as tar:
        link = tarfile.TarInfo("l.clean.png")
        link.type, link.linkname = tarfile.SYMTYPE, "x.clean.png"
        tar.addfile(link)
    left = {item.name: item.detail for item in listed(tmp_path, "shards") if isinstance(item, Unpaired)}
    assert list(left) == ["1.tar/y.before.png", "1.tar/z.png", "1.tar/l.clean.png"]
    assert "neither NAME.degraded" in left["1.tar/z.png"] and "a link" in left["1.tar/l.clean.png"]


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_rows_are_read_in_any_order(tmp_path, struct):
    def cell(text: str) -> object:
        return {"bytes": text.encode(), "path": text} if struct else text.encode()

    rows = [{"name": f"n{i}", "degraded": cell(f"d{i}"), "clean": cell(f"c{i}")} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    refs = listed(tmp_path, "shards")
    assert [ref.name for ref in refs[:2]] == ["a.parquet/n0", "a.parquet/n1"]
    order = [0, 3, 29, 5, 5, 28, 6]
    assert contents(tmp_path, [refs[i] for i in order]) == [(f"d{i}".encode(), f"c{i}".encode()) for i in order]


def test_what_is_wrong_with_a_parquet_file_is_said(tmp_path):
    table = pa.table({"degraded": [b"d", None], "clean": [b"c", b"c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [b"d"]}), tmp_path / "b.parquet")
    write(tmp_path, {"c.parquet": b"no"})
    *refs, other, broken = listed(tmp_path, "shards")
    assert [ref.name for ref in refs] == ["a.parquet/00000000", "a.parquet/00000001"]
    assert "no columns degraded and clean" in other.detail and "not a whole Parquet" in broken.detail
    assert isinstance(contents(tmp_path, refs)[1][0], ItemError)


def test_a_file_that_has_gone_is_an_error_of_its_own(tmp_path):
    files = {f"{side}/{name}.png": name.encode() for side in ("degraded", "clean") for name in "ab"}
    refs = listed(write(tmp_path, files), "pairs")
    (tmp_path / "clean" / "a.png").unlink()
    (first, gone), second = contents(tmp_path, refs)
    assert first == b"a" and isinstance(gone, ItemError) and second == (b"b", b"b")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageRefusedError):
        listed(tmp_path / "no", "pairs")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(orientation):
    pixels = picture()
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    data = image.tiffsave_buffer(keep="all")
    expected = pyvips.Image.new_from_buffer(data, "").autorot().numpy()
    np.testing.assert_array_equal(decode_upright(data, 1), expected)


def test_depth_and_channels_stay():
    deep = decode_upright(rich("tiff", 16, 1), 1)  # with orientation 6
    assert deep.dtype == np.uint16 and deep.shape == picture(16, 1).T.shape
    assert decode_upright(bare("png", picture(8, 3)), 1).shape == picture(8, 3).shape


@pytest.mark.s3
def test_pairs_on_s3(s3_bucket):
    store = Store.open(f"{s3_bucket}/data", LOCAL)
    members = [("x.degraded.png", b"d x"), ("x.clean.png", b"c x")]
    files = {"degraded/a.png": b"d a", "clean/a.jpg": b"c a", "shards/1.tar": tar_bytes(members)}
    assert all(store.create(path, data) for path, data in files.items())
    for form, uri, expected in (("pairs", "data", (b"d a", b"c a")), ("shards", "data/shards", (b"d x", b"c x"))):
        refs = listed(f"{s3_bucket}/{uri}", form)
        reads = read_pairs(Store.open(f"{s3_bucket}/{uri}", LOCAL), refs)
        assert [(read.degraded, read.clean) for read in reads] == [expected]
