"""Listing and reading of every kind of source, on local folders."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fdi_lib.errors import ItemError, ManifestError
from fdi_lib.manifest.settings import SourceSettings
from fdi_lib.records import REFERENCE
from fdi_lib.storage.pack import parquet_bytes, tar_bytes
from fdi_lib.storage.sources import companions, list_objects, read_image, read_images, sample_key
from fdi_lib.storage.store import ObjectEntry, Store

PICTURES = [
    ("0001.jpg", b"one"),
    ("0001.json", b"{}"),
    ("b/0002.PNG", b""),
    ("notes.txt", b"n"),
    ("c.tif", b"three" * 99),
]


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_all(source: SourceSettings) -> list[tuple[dict[str, Any], bytes | ItemError]]:
    store = Store.open(source.uri, source.storage)
    return [
        (row, data)
        for block in list_objects(source, 2)
        for entry in block
        for row, data in read_images(store, source, entry)
    ]


def ids(found: list[tuple[dict[str, Any], bytes | ItemError]]) -> dict[str, Any]:
    assert len({row["image_id"] for row, _ in found}) == len(found)
    return {row["image_id"]: getattr(data, "reason", data) for row, data in found}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write(tmp_path, {"x/1.jpg": b"one", "x/1.xml": b"", "2.TIFF": b"two", "README": b"", "x/.png": b""})
    write(tmp_path, {"boxes/a.tar": tar_bytes(PICTURES), "boxes/b.parquet": parquet_bytes([("r.png", b"row")])})
    return tmp_path


def test_auto_goes_by_each_objects_extension(archive: Path) -> None:
    source = SourceSettings(uri=str(archive))
    listing = list_objects(source, 2)
    blocks = list(listing)
    assert [[entry.path for entry in block] for block in blocks] == [
        ["2.TIFF", "boxes/a.tar"],
        ["boxes/b.parquet", "x/1.jpg"],
    ]
    assert listing.ignored == Counter({"xml": 1, "(none)": 2})
    assert ids(read_all(source)) == {
        "2.TIFF": b"two",
        "boxes/a.tar/0001.jpg": b"one",
        "boxes/a.tar/b/0002.PNG": b"",
        "boxes/a.tar/c.tif": b"three" * 99,
        "boxes/b.parquet/r.png": b"row",
        "x/1.jpg": b"one",
    }


@pytest.mark.parametrize(
    ("form", "objects", "ignored"),
    [
        ("files", ["2.TIFF", "x/1.jpg"], {"tar": 1, "parquet": 1, "xml": 1, "(none)": 2}),
        ("webdataset", ["boxes/a.tar"], {"parquet": 1, "xml": 1, "(none)": 2, "jpg": 1, "tiff": 1}),
        ("parquet", ["boxes/b.parquet"], {"tar": 1, "xml": 1, "(none)": 2, "jpg": 1, "tiff": 1}),
    ],
)
def test_a_stated_format_takes_only_its_own(
    archive: Path, form: Any, objects: list[str], ignored: dict[str, int]
) -> None:
    listing = list_objects(SourceSettings(uri=str(archive), format=form), 100)
    assert [[entry.path for entry in block] for block in listing] == [objects]
    assert listing.ignored == ignored


def test_references_are_complete_and_lead_back_to_the_bytes(archive: Path) -> None:
    source = SourceSettings(uri=str(archive))
    store = Store.open(source.uri, source.storage)
    found = read_all(source)
    table = pa.Table.from_pylist([row for row, _ in found], schema=REFERENCE)
    assert set(found[0][0]) == set(REFERENCE.names)
    for row, (_, data) in zip(table.to_pylist(), found, strict=True):
        assert read_image(store, row) == data
        assert row["length"] == len(data)
    rows = {row["image_id"]: row for row, _ in found}
    member = rows["boxes/a.tar/b/0002.PNG"]
    assert member["source_uri"] == f"{archive}/boxes/a.tar#b/0002.PNG"
    assert (member["object"], member["shard"], member["kind"]) == (f"{archive}/boxes/a.tar", "boxes/a.tar", "tar")
    assert rows["x/1.jpg"]["source_uri"] == rows["x/1.jpg"]["object"] == f"{archive}/x/1.jpg"
    assert (rows["x/1.jpg"]["shard"], rows["x/1.jpg"]["kind"], rows["x/1.jpg"]["row"]) == ("", "file", -1)
    assert (rows["boxes/b.parquet/r.png"]["kind"], rows["boxes/b.parquet/r.png"]["row"]) == ("parquet", 0)


@pytest.mark.parametrize("name", ["boxes/a.tar", "boxes/b.parquet", "x/1.jpg"])
def test_a_source_may_be_one_object(archive: Path, name: str) -> None:
    source = SourceSettings(uri=str(archive / name))
    found = ids(read_all(source))
    folder = SourceSettings(uri=str((archive / name).parent))
    assert found == {k: v for k, v in ids(read_all(folder)).items() if k.startswith(Path(name).name)}
    store = Store.open(source.uri, source.storage)
    for row, data in read_all(source):
        assert read_image(store, row) == data


def test_what_changed_or_went_away_is_an_item_error(archive: Path) -> None:
    source = SourceSettings(uri=str(archive))
    store = Store.open(source.uri, source.storage)
    rows = {row["image_id"]: row for row, _ in read_all(source)}
    (archive / "boxes/a.tar").write_bytes(b"short")
    (archive / "x/1.jpg").unlink()
    (archive / "boxes/b.parquet").unlink()
    expected = {
        "x/1.jpg": "missing_source",
        "boxes/a.tar/c.tif": "source_changed",
        "boxes/b.parquet/r.png": "missing_source",
    }
    for name, reason in expected.items():
        with pytest.raises(ItemError, match=reason):
            read_image(store, rows[name])
    for name in ("x/1.jpg", "boxes/b.parquet"):
        assert ids(list(read_images(store, source, ObjectEntry(name, 3000, "")))) == {name: "missing_source"}


def test_a_cut_shard_yields_what_it_can_and_one_row_for_the_rest(tmp_path: Path) -> None:
    whole = tar_bytes([("1.jpg", b"one"), ("2.jpg", b"two" * 1000), ("3.jpg", b"three")])
    write(tmp_path, {"a.tar": whole[:3000], "b.tar": b"", "c.parquet": b"PAR1", "d.tar": tar_bytes([("1.jpg", b"d")])})
    found = ids(read_all(SourceSettings(uri=str(tmp_path))))
    assert found.pop("a.tar/1.jpg") == b"one"
    assert found.pop("d.tar/1.jpg") == b"d"
    assert found == dict.fromkeys(["a.tar", "b.tar", "c.parquet"], "unreadable")


def test_equal_names_become_different_ids_in_order(tmp_path: Path) -> None:
    members = [("x/a.jpg", b"1"), ("./x//a.jpg", b"2"), ("x/a~2.jpg", b"3"), ("x/a.jpg", b"4"), ("x.y/b.png", b"5")]
    write(tmp_path, {"s.tar": tar_bytes([*members, members[-1]])})
    found = read_all(SourceSettings(uri=str(tmp_path)))
    assert ids(found) == {
        "s.tar/x/a.jpg": b"1", "s.tar/x/a~2.jpg": b"2", "s.tar/x/a~2~2.jpg": b"3", "s.tar/x/a~3.jpg": b"4",
        "s.tar/x.y/b.png": b"5", "s.tar/x.y/b~2.png": b"5",
    }  # fmt: skip


def test_hostile_members_are_rows_with_harmless_ids(tmp_path: Path) -> None:
    names = ["../../etc/a.png", "/abs.png", "a/../../b.png", "c\\d.png", "e" * 250 + ".png", "bad\udce9.png", "ok.png"]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    write(tmp_path, {"s.tar": sink.getvalue()})
    found = read_all(SourceSettings(uri=str(tmp_path)))
    reasons = ids(found)
    assert Counter(map(str, reasons.values())) == {"unsafe_name": 6, "b'x'": 1}
    pa.Table.from_pylist([row for row, _ in found], schema=REFERENCE)
    for image_id, reason in reasons.items():
        assert image_id.startswith("s.tar/unsafe-") == (reason == "unsafe_name")
        assert not {"..", "", "."} & set(image_id.split("/"))
        assert image_id.endswith(".png")


def test_hostile_files_and_links_that_lead_nowhere_are_rows(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
        pass
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = ids(read_all(SourceSettings(uri=str(tmp_path))))
    assert sorted(found.values()) == ["missing_source", "unsafe_name"]


def test_links_inside_a_tar_are_not_followed(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    write(tmp_path, {"s.tar": sink.getvalue()})
    assert ids(read_all(SourceSettings(uri=str(tmp_path)))) == {"s.tar/l.png": "unreadable"}


def test_rows_without_a_name_are_numbered_and_empty_ones_are_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"bytes": [b"1", None, b"3"]}), tmp_path / "s.parquet")
    found = ids(read_all(SourceSettings(uri=str(tmp_path))))
    assert found == {"s.parquet/00000000": b"1", "s.parquet/00000001": "missing_source", "s.parquet/00000002": b"3"}


def test_companions_are_found_with_their_sample(archive: Path) -> None:
    source = SourceSettings(uri=str(archive))
    store = Store.open(source.uri, source.storage)
    size = store.size("boxes/a.tar") or 0
    found = list(companions(store, "boxes/a.tar", size))
    assert [(c.sample, c.name) for c in found] == [("0001", "0001.json"), ("notes", "notes.txt")]
    assert store.read("boxes/a.tar", found[0].offset, found[0].length) == b"{}"
    assert sample_key("x.y/0001.page.tif") == "x.y/0001"


def _inventory(folder: Path, form: str, uris: list[Any]) -> SourceSettings:
    path = folder / f"lists/list.{form}"
    path.parent.mkdir(exist_ok=True)
    if form == "csv":
        path.write_text("note,uri\n" + "".join(f'ab,"{uri}"\n' for uri in uris), encoding="utf-8-sig")
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"uri": uri, "priority": 1}) for uri in uris) + "\n\n")
    else:
        pq.write_table(pa.table({"uri": uris}), path)
    return SourceSettings(uri=str(path), format="inventory")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_inventories(tmp_path: Path, form: str) -> None:
    write(tmp_path, {"lists/in/é, 1.jpg": b"1", "out/2.bin": b"2", "lists/3.tar": b"3", "4.png": b"4"})
    source = _inventory(tmp_path, form, ["in/é, 1.jpg", "./3.tar", str(tmp_path / "out/2.bin"), "gone.png", "../4.png"])
    found = ids(read_all(source))
    assert found["in/é, 1.jpg"] == b"1"
    assert found["3.tar"] == b"3"
    assert found[str(tmp_path / "out/2.bin")[1:]] == b"2"
    assert found[str(tmp_path / "4.png")[1:]] == b"4"
    assert found["gone.png"] == "missing_source"
    assert len(found) == 5
    store = Store.open(source.uri, source.storage)
    for row, data in read_all(source):
        if isinstance(data, bytes):
            assert read_image(store, row) == data


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv", b"path\nx.png\n", "a.csv:2: uri: has no uri"),
        ("a.jsonl", b'{"uri": "x.png"}\n{"uri": 3}\n', "a.jsonl:2"),
        ("a.jsonl", b"nonsense", "JSON Lines"),
        ("a.csv", b"uri\n\xff\xfe\n", "UTF-8"),
        ("a.parquet", b"PAR1", "Parquet"),
        ("a.xlsx", b"", "not an inventory"),
    ],
)
def test_wrong_inventories_are_the_users_mistakes(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    write(tmp_path, {name: data})
    with pytest.raises(ManifestError, match=problem):
        list(list_objects(SourceSettings(uri=str(tmp_path / name), format="inventory"), 10))


def test_repeated_rows_are_one_image_and_counted(tmp_path: Path) -> None:
    write(tmp_path, {"lists/1.png": b"1", "2.png": b"2"})
    far = str(tmp_path / "2.png")
    source = _inventory(tmp_path, "csv", ["1.png", "./1.png", far, f"file://{far}", "../lists/1.png", far])
    listing = list_objects(source, 2)
    assert [Path(entry.path).name for block in listing for entry in block] == ["1.png", "2.png"]
    assert listing.ignored == {"(repeated row)": 4}


def test_two_images_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    outside = str(tmp_path / "x.png")
    source = _inventory(tmp_path, "csv", [outside, outside[1:]])  # the second is relative to the list
    with pytest.raises(ManifestError, match=f"another row's image would get the same name, {outside[1:]}"):
        list(list_objects(source, 2))


def test_bytes_unlike_their_row_are_no_image(tmp_path: Path) -> None:
    write(tmp_path, {"1.png": b"1", "2.png": b"2"})
    right, wrong = (hashlib.sha256(data).hexdigest() for data in (b"1", b"other"))
    (tmp_path / "list.csv").write_text(f"uri,sha256\n1.png,{right}\n2.png,{wrong}\n")
    (_, one), (row, two) = read_all(SourceSettings(uri=str(tmp_path / "list.csv"), format="inventory"))
    assert one == b"1" and row["image_id"] == "2.png" and isinstance(two, ItemError)
    assert two.reason == "source_changed"
    assert wrong in two.detail and hashlib.sha256(b"2").hexdigest() in two.detail


def test_links_are_followed_but_not_into_the_output(tmp_path: Path) -> None:
    write(tmp_path, {"in/a.png": b"1", "else/b.png": b"2", "out/images/c.png": b"3"})
    for link, target in {"else": "else", "out": "out", "deep": "out/images", "c.png": "out/images/c.png"}.items():
        (tmp_path / "in" / link).symlink_to(tmp_path / target)
    (tmp_path / "in/above").symlink_to(tmp_path)  # leads to the output through its parent
    listing = list_objects(SourceSettings(uri=str(tmp_path / "in")), 9, str(tmp_path / "out"))
    found = [entry.path for block in listing for entry in block]
    assert found == ["a.png", "above/else/b.png", "else/b.png"]
    assert listing.ignored == {"(link into the output)": 4}
