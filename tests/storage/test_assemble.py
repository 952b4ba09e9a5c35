"""A shard has one form, whatever the units, and whenever the job was stopped before."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from fdi_lib.errors import RunConflictError, StorageRefusedError
from fdi_lib.storage import ledger
from fdi_lib.storage.layouts import read_shard
from fdi_lib.storage.outputs import STAGED_IMAGES
from tests.sharded import DELIVERED, MEMBERS, OTHERS, Sharded, png


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(params=["webdataset", "parquet"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def whole(folder: Path, layout: str, **arguments: object) -> Sharded:
    job = Sharded(folder, layout, **arguments)  # type: ignore[arg-type]
    job.work()
    assert job.assemble()
    return job


def test_results_lie_in_the_shard_with_sidecars_and_what_else_was_in_the_samples(tmp_path: Path, layout: str) -> None:
    job = whole(tmp_path, layout)
    (path,) = job.shards
    assert path == {"webdataset": "boxes/a.tar", "parquet": "boxes/a.parquet"}[layout]
    held = dict(read_shard(job.store, f"shards/{path}"))
    names = [name for name, _ in read_shard(job.store, f"shards/{path}")]
    assert [name for name in names if name in DELIVERED] == DELIVERED  # the source's order
    assert set(held) == {*DELIVERED, *(f"{name}.json" for name in DELIVERED), *OTHERS}
    source = dict(MEMBERS)
    assert held["z/0003.png"] == source["z/0003.png"] and held["0001.png"] != source["0001.png"]
    assert held["0002.png~2.json"] == source["0002.png.json"] and held["0004.cls"] == b"7"

    rows = {row["image_id"]: row for row in ledger.load_effective(job.store).to_pylist()}
    assert len(rows) == 6 and [rows[f"boxes/a.tar/{n}"]["status"] for n in ("0004.png", "0005.jpg")] == [
        "review",
        "failed",
    ]
    for name in DELIVERED:
        row = rows[f"boxes/a.tar/{name}"]
        assert row["output_uri"] == f"{job.output}/shards/{path}#{name}"
        assert row["output_sha256"] == hashlib.sha256(held[name]).hexdigest()
        assert row["output_bytes"] == len(held[name])
    assert not list(job.store.walk("_control/staged/"))


def test_members_of_a_sample_stay_together_in_a_tar(tmp_path: Path) -> None:
    job = whole(tmp_path, "webdataset")
    names = [name for name, _ in read_shard(job.store, "shards/boxes/a.tar")]
    assert names[:5] == ["z/0003.png", "z/0003.png.json", "z/0003.txt", "0001.json", "0001.png"]


def test_units_do_not_matter(tmp_path: Path, layout: str) -> None:
    shards = []
    for size in (1, 5):
        job = Sharded(tmp_path, layout, f"out{size}")
        job.work(size)
        assert job.assemble()
        shards.append(job.shards)
    assert shards[0] == shards[1]


def test_a_shard_waits_until_all_its_images_are_done(tmp_path: Path, layout: str) -> None:
    expected = whole(tmp_path, layout, name="whole").shards
    job = Sharded(tmp_path, layout)
    first = job.work(stop_after=2)
    assert not job.assemble() and not job.shards
    assert sum(ledger.counts(job.store).values()) == first == 3
    assert job.work() == 3  # nothing is done twice
    assert job.assemble() and job.shards == expected


def test_stopped_between_any_two_steps(tmp_path: Path, layout: str) -> None:
    job = Sharded(tmp_path, layout)
    job.work()
    before = tmp_path / "before"
    shutil.copytree(job.output, before)
    assert job.assemble()
    expected, rows = job.shards, ledger.load_effective(job.store)

    # the shard is there, its rows are not
    for staged in (before / "ledger", before / "_control"):
        shutil.rmtree(job.output / staged.name, ignore_errors=True)
        shutil.copytree(staged, job.output / staged.name)
    assert job.assemble() and job.shards == expected
    assert ledger.load_effective(job.store).equals(rows)

    # its rows are there, what was staged is not cleared, or in part
    shutil.copytree(before / "_control", job.output / "_control", dirs_exist_ok=True)
    next((job.output / STAGED_IMAGES).rglob("*.png")).unlink()
    assert job.work() == 0 and job.assemble() and job.shards == expected
    assert ledger.load_effective(job.store).equals(rows) and not list(job.store.walk("_control/staged/"))


def test_images_that_come_later_join_the_shard(tmp_path: Path, layout: str) -> None:
    """As after a retry: what was there stays, byte for byte, and the shard is as if all had come at once."""
    job = whole(tmp_path, layout, members=[(n, d) for n, d in MEMBERS if n != "0002.png"])
    held = dict(read_shard(job.store, f"shards/{next(iter(job.shards))}"))
    job = whole(tmp_path, layout)
    now = dict(read_shard(job.store, f"shards/{next(iter(job.shards))}"))
    assert all(now[name] == held[name] for name in DELIVERED if name != "0002.png") and "0002.png" in now
    assert job.shards == whole(tmp_path, layout, name="at_once").shards


def test_nothing_is_built_on_altered_files(tmp_path: Path) -> None:
    job = Sharded(tmp_path, "webdataset")
    job.work()
    staged = next((job.output / STAGED_IMAGES).rglob("0001.png"))
    staged.write_bytes(b"other")
    with pytest.raises(StorageRefusedError, match=r"0001\.png is gone, or not as it was written"):
        job.assemble()

    job = whole(tmp_path, "webdataset", name="two")
    path = job.output / "shards/boxes/a.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1  # inside the first member
    path.write_bytes(data)
    job = Sharded(tmp_path, "webdataset", "two", members=[*MEMBERS, ("new.png", png(92))])
    job.work()
    with pytest.raises(RunConflictError, match="not as the ledger says"):
        job.assemble()
    assert path.read_bytes() == data


def test_a_strangers_shard_is_not_replaced(tmp_path: Path) -> None:
    job = Sharded(tmp_path, "webdataset")
    job.work()
    path = job.output / "shards/boxes/a.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 2000)
    with pytest.raises(RunConflictError, match="can't be read any more"):
        job.assemble()
