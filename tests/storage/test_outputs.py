"""Names of outputs, and what lies at them: written once, whatever is tried again, and tidied up after a retry."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.errors import ItemError, ManifestError
from fdi_lib.manifest import StorageSettings
from fdi_lib.records import LEDGER, SCHEMA_VERSION
from fdi_lib.storage import ledger
from fdi_lib.storage.outputs import (
    Outputs,
    member_name,
    not_in_a_shard,
    output_name,
    renamed,
    safe_name,
    staging_folders,
)
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.store import Store

SOURCE = {"uri": "/no/such/folder"}
RUN = {"started": "2026-11-23T00:00:00Z", "versions": {"fdi-restore": "0.1"}, "manifest": {"source": SOURCE}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "out"), StorageSettings())


@pytest.fixture
def outputs(store: Store) -> Outputs:
    return Outputs(store, RUN)


def row(image_id: str = "a/1.png", **columns: Any) -> dict[str, Any]:
    blank = dict.fromkeys(LEDGER.names) | {"schema_version": SCHEMA_VERSION, "adapters": [], "gates": [], "pages": []}
    blank |= {"image_id": image_id, "shard": "", "source_uri": f"/in/{image_id}", "status": "restored", "reason": ""}
    return (
        blank
        | {"detail": "", "scores": [("noise", 0.5)], "output_uri": "", "output_sha256": "", "attempt": 1}
        | columns
    )


def files(store: Store) -> dict[str, bytes]:
    return {entry.path: store.read(entry.path) for entry in store.walk()}


# ---- names


@pytest.mark.parametrize(
    ("image_id", "shard", "expected"),
    [
        ("x/a.png", "", "x/a.png"),
        ("x/a.tar/b/1.png", "x/a.tar", "x/a/b/1.png"),
        ("part.0001.tar/1.png", "part.0001.tar", "part.0001/1.png"),  # only the last extension is the shard's
        ("noname/1.png", "noname", "noname/1.png"),
        (".tar/1.png", ".tar", ".tar/1.png"),
        ("x.d/a/1.png", "x.d/a", "x.d/a/1.png"),  # a folder's dot is none of the shard's
    ],
)
def test_output_name(image_id: str, shard: str, expected: str) -> None:
    assert output_name(image_id, shard) == expected


@pytest.mark.parametrize(
    "image_id", ["../1.png", "a.tar/../../1.png", "/1.png", "a.tar//1.png", "a.tar/\n", "a.tar/\udcff"]
)
def test_names_that_would_leave_the_output_are_refused_but_can_be_told_of(image_id: str) -> None:
    shard = "a.tar" if image_id.startswith("a.tar") else ""
    with pytest.raises(ItemError, match="unsafe_name"):
        output_name(image_id, shard)
    name = safe_name(row(image_id, shard=shard))
    assert name.startswith("unsafe-") and output_name(name, "") == name
    assert name != safe_name(row("../2.png"))


def test_member_name() -> None:
    for shard in ("x/a.tar", "part.0001.tar", ".tar", "noname"):
        assert member_name(output_name(f"{shard}/a/1.png", shard), shard) == "a/1.png"


def test_staging_folders_are_a_shards_own() -> None:
    shards = ["a.tar", "a.parquet", "b/a.tar", "\udcff.tar"]
    folders = [folder for shard in shards for folder in staging_folders(shard)]
    assert len(set(folders)) == 8 and all(folder.startswith("_control/") and folder.isascii() for folder in folders)
    assert staging_folders("a.tar") == staging_folders("a.tar")


@pytest.mark.parametrize(
    ("name", "extension", "taken", "expected"),
    [
        ("a.png", ".tiff", False, "a.tiff"),
        ("a.png", ".tiff", True, "a.png.tiff"),
        ("a.png", "", True, "a.png"),
        ("box.d/a", ".tiff", False, "box.d/a.tiff"),
        ("a", ".tiff", False, "a.tiff"),
        ("x/a.b.png", ".jpg", False, "x/a.b.jpg"),
    ],
)
def test_renamed(name: str, extension: str, taken: bool, expected: str) -> None:
    assert renamed(name, extension, taken) == expected


# ---- images


def test_an_image_lies_beside_its_sidecar_and_its_row_says_where(outputs: Outputs, store: Store) -> None:
    written = outputs.image(row(), "a/1.png", b"pixels")
    digest = hashlib.sha256(b"pixels").hexdigest()
    assert written == row(output_uri=store.uri("images/a/1.png"), output_sha256=digest, output_bytes=6)
    assert set(files(store)) == {"images/a/1.png", "images/a/1.png.json"}
    sidecar = json.loads(store.read("images/a/1.png.json"))
    assert sidecar["image_id"] == "a/1.png" and sidecar["output"]["sha256"] == digest


def test_the_same_image_again_changes_nothing(outputs: Outputs, store: Store) -> None:
    first = outputs.image(row(), "a/1.png", b"pixels")
    before = files(store)
    assert outputs.image(row(attempt=2, worker="other"), "a/1.png", b"pixels") == first | {
        "attempt": 2,
        "worker": "other",
    }
    # Another attempt's bytes may differ (a batch halved for memory): those that lie there are the ones to be told of.
    assert outputs.image(row(), "a/1.png", b"pixel") == first
    assert files(store) == before


def test_an_attempt_that_was_killed_before_its_sidecar_is_completed(outputs: Outputs, store: Store) -> None:
    store.create("images/a/1.png", b"pixels")
    assert outputs.image(row(), "a/1.png", b"pixels")["output_bytes"] == 6
    assert json.loads(store.read("images/a/1.png.json"))["image_id"] == "a/1.png"


def test_another_images_place_is_not_taken(outputs: Outputs, store: Store) -> None:
    outputs.image(row("a.tar/1.png", shard="a.tar"), "a/1.png", b"pixels")
    before = files(store)
    for data in (b"other", b"pixels"):
        with pytest.raises(ItemError, match=r"output_conflict: images/a/1\.png belongs to another image"):
            outputs.image(row("a/1.png"), "a/1.png", data)
    assert files(store) == before


def test_what_a_killed_job_left_of_other_source_bytes_is_replaced(store: Store) -> None:
    outputs = Outputs(store, RUN)
    outputs.image(row("a/1.png", source_sha256="0" * 64), "a/1.png", b"from what the source was")
    made = outputs.image(row("a/1.png", source_sha256="1" * 64), "a/1.png", b"from what it is")
    assert store.read("images/a/1.png") == b"from what it is" and made["output_bytes"] == 15
    assert json.loads(store.read("images/a/1.png.json"))["source"]["sha256"] == "1" * 64
    assert made["output_sha256"] == json.loads(store.read("images/a/1.png.json"))["output"]["sha256"]


def test_a_member_and_a_file_of_one_name_lie_apart(tmp_path: Path, store: Store) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/1.png").write_bytes(b"plain")
    (tmp_path / "in/a.tar").write_bytes(tar_bytes([("1.png", b"member")]))
    outputs = Outputs(store, RUN | {"manifest": {"source": {"uri": str(tmp_path / "in")}}})
    plain, member = row("a/1.png"), row("a.tar/1.png", shard="a.tar")
    assert outputs.image(plain, "a/1.png", b"plain")["output_uri"] == store.uri("images/a/1.png")
    assert outputs.image(member, "a/1.png", b"member")["output_uri"] == store.uri("images/a.tar/1.png")
    for each in (plain, member):
        outputs.failed(each)
        outputs.for_review(each, "a/1.tiff", each["image_id"].encode())
    assert store.read("review/a/1.tiff") == b"a/1.png" and store.read("review/a.tar/1.tiff") == b"a.tar/1.png"
    for folder in ("failed", "review"):
        for each in (plain, member):
            told = json.loads(store.read(f"{folder}/{each['image_id']}.json"))
            assert told["image_id"] == each["image_id"]


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_members_that_would_get_one_name_keep_their_old_extension(tmp_path: Path, store: Store, layout: str) -> None:
    (tmp_path / "in").mkdir()
    members = [("1.png", b"1"), ("1.jpg", b"2"), ("2.png", b"3")]
    (tmp_path / "in/a.tar").write_bytes(tar_bytes(members))
    outputs = Outputs(store, RUN | {"manifest": {"source": {"uri": str(tmp_path / "in")}}}, layout)
    found = [
        outputs.image(row(f"a.tar/{name}", shard="a.tar"), f"a/{name[0]}.tiff", data)["output_uri"]
        for name, data in members
    ]
    assert [uri.rpartition("/")[2] for uri in found] == ["1.png.tiff", "1.jpg.tiff", "2.tiff"]


def test_shard_layouts_stage_images_apart_by_shard(store: Store) -> None:
    outputs = Outputs(store, RUN, "webdataset")
    found = [outputs.image(row(f"{shard}/1.png", shard=shard), output_name(f"{shard}/1.png", shard), shard.encode())
             for shard in ("x/a.tar", "a.tar")]  # fmt: skip
    places = [f"{staging_folders(shard)[1]}1.png" for shard in ("x/a.tar", "a.tar")]
    assert [each["output_uri"] for each in found] == [store.uri(place) for place in places]
    assert set(files(store)) == {name for place in places for name in (place, f"{place}.json")}
    with pytest.raises(ManifestError, match=r"output\.layout"):
        outputs.image(row(), "a/1.png", b"pixels")


def test_what_is_said_of_single_files_does_not_steer_the_terminal() -> None:
    message = str(not_in_a_shard("parquet", "\udcff.png"))
    assert "output.layout = 'parquet'" in message and "fdi pack" in message and message.encode()


# ---- rows


def test_rows_are_committed_and_those_of_staged_images_wait(store: Store) -> None:
    rows = [row("1.png"), row("a.tar/2.png", shard="a.tar"), row("a.tar/3.png", shard="a.tar", status="failed")]
    Outputs(store, RUN).commit(rows, 1)
    assert sorted(ledger.load_effective(store)["image_id"].to_pylist()) == ["1.png", "a.tar/2.png", "a.tar/3.png"]
    other = Store.open(store.uri("other"), StorageSettings())
    for _ in range(2):  # a unit that is sent again
        Outputs(other, RUN, "webdataset").commit(rows[1:], 1)
    assert ledger.load_effective(other)["image_id"].to_pylist() == ["a.tar/3.png"]
    (waiting,) = ledger.scan(other, ["image_id"], staging_folders("a.tar")[0])
    assert waiting["image_id"].to_pylist() == ["a.tar/2.png"]


# ---- what needs a person


def test_review_and_failed_tell_why(outputs: Outputs, store: Store) -> None:
    gates = [{"name": "not_blank", "value": 0.0, "limit": 0.02, "ok": False}]
    refused = outputs.for_review(row(status="review", reason="gate", gates=gates), "a/1.tiff", b"candidate")
    assert refused["output_uri"] == store.uri("review/a/1.tiff") and refused["output_bytes"] == 9
    outputs.for_review(row("2.png", status="review", reason="unknown"), "2.png", None)
    outputs.failed(row("../3.png", status="failed", reason="unsafe_name"))
    unsafe = safe_name(row("../3.png"))
    expected = {"review/a/1.tiff", "review/a/1.png.json", "review/2.png.json", f"failed/{unsafe}.json"}
    assert set(files(store)) == expected
    told = json.loads(store.read("review/a/1.png.json"))
    assert (told["reason"], told["gates"], told["scores"]) == ("gate", gates, {"noise": 0.5})
    assert told["output_sha256"] == hashlib.sha256(b"candidate").hexdigest()
    assert json.loads(store.read(f"failed/{unsafe}.json"))["image_id"] == "../3.png"


@pytest.mark.parametrize("became", ["restored", "review", "failed"])
@pytest.mark.parametrize("was", ["review", "failed"])
def test_a_retry_leaves_only_what_still_holds(outputs: Outputs, store: Store, was: str, became: str) -> None:
    def write(status: str, attempt: int) -> None:
        new = row(status=status, attempt=attempt)
        if status == "review":
            outputs.for_review(new, "a/1.tiff", b"candidate")
        elif status == "failed":
            outputs.failed(new)
        else:
            outputs.image(new, "a/1.png", b"pixels")
        if attempt > 1:
            outputs.settle(new)

    outputs.for_review(row("b.png", status="review"), "b.png", b"another's")
    others = set(files(store))
    write(was, 1)
    write(became, 2)
    left = {
        "restored": {"images/a/1.png", "images/a/1.png.json"},
        "review": {"review/a/1.tiff", "review/a/1.png.json"},
        "failed": {"failed/a/1.png.json"},
    }
    assert set(files(store)) - others == left[became] and others <= set(files(store))
