"""The job with shard layouts on a small local Ray; and what lies beside images with any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.layouts import read_shard
from fdi_lib.storage.run import open_run
from jobs import report, restore, verify
from jobs.parts import Parts
from jobs.shards import check_layout, finish_shards
from tests import fakes
from tests.sharded import DELIVERED, MEMBERS, Sharded, png

PARTS = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)


def settings(actors: int = 1) -> dict[str, Any]:
    small = {"cpus": 0.5, "memory_gib": 0.1}
    pools = {
        "decode": small,
        "classify": small | {"cpus": 0.3, "max": 1, "batch": 4},
        "restore": small | {"cpus": 0.3, "min": actors, "max": actors},
    }
    return {"pools": pools, "limits": {"max_failed_fraction": 0.5, "wait_s": 30.0}}


def differences(job: Sharded) -> list[str]:
    found = verify.run(str(job.output), StorageSettings())["found"]
    return [f"{difference['what']}: {difference['name']}" for difference in found]


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.mark.usefixtures("ray_local")
def test_a_run_into_shards_is_resumed_verified_and_retried(tmp_path: Path) -> None:
    one = Sharded(tmp_path, "webdataset", "one", **settings())
    summary = restore.run(one.manifest, PARTS)
    counts = {name: summary[name] for name in ("images", "restored", "clean", "review", "failed")}
    assert counts == {"images": 6, "restored": 3, "clean": 1, "review": 1, "failed": 1}
    assert differences(one) == []
    assert report.run(str(one.output), StorageSettings())["pictures"] == 5

    again = restore.run(one.manifest, PARTS)
    assert (again["already_done"], again["units"]) == (6, 0)

    two = Sharded(tmp_path, "webdataset", "two", **settings(actors=2))
    models = restore.preflight(two.manifest, PARTS)
    begun = open_run(two.manifest, models, restore.numeric_profile(two.manifest))
    stage = fakes_stage(two, begun.info)
    stage(next(two.units(1)), 1)  # and then it was killed
    summary = restore.run(two.manifest, PARTS)
    assert (summary["already_done"], summary["images"]) == (1, 6)
    assert two.shards == one.shards

    kinder = Parts(fakes.describe, fakes.view_spec, kind_classifier, fakes.make_restorer)
    summary = restore.retry(str(one.output), kinder)
    assert (summary["restored"], summary["review"], summary["failed"]) == (4, 0, 1)
    names = [name for name, _ in read_shard(one.store, "shards/boxes/a.tar")]
    assert [n for n in names if n.endswith(".png")] == ["z/0003.png", "0001.png", "0002.png", "0004.png", "0006.png"]
    assert differences(one) == []


@pytest.mark.usefixtures("ray_local")
def test_companions_are_files_beside_their_images(tmp_path: Path) -> None:
    job = Sharded(tmp_path, "files", **settings())
    job.work()
    for _ in range(2):
        finish_shards(job.manifest, job.store, everything=True)
    assert (job.output / "images/boxes/a/0004.cls").read_bytes() == b"7"
    assert (job.output / "images/boxes/a/0002.png~2.json").read_bytes() == dict(MEMBERS)["0002.png.json"]
    assert differences(job) == []
    (job.output / "images/boxes/a/0001.json").unlink()
    assert differences(job) == ["not carried over: images/boxes/a/0001.json"]


@pytest.mark.usefixtures("ray_local")
def test_a_shard_that_grew_in_the_meantime_waits_for_the_next_run(tmp_path: Path) -> None:
    job = Sharded(tmp_path, "parquet", **settings())
    job.work()
    job = Sharded(tmp_path, "parquet", members=[*MEMBERS, ("new.png", png(92))], **settings())
    with pytest.raises(FDIError, match=r"boxes/a\.tar wait .* run again"):
        finish_shards(job.manifest, job.store, everything=True)
    assert job.work() == 1
    finish_shards(job.manifest, job.store, everything=True)
    assert differences(job) == []


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_verify_looks_inside_shards(tmp_path: Path, layout: str) -> None:
    job = Sharded(tmp_path, layout)
    job.work()
    assert job.assemble() and differences(job) == []
    (path,) = (job.output / "shards/boxes").iterdir()
    data = path.read_bytes()
    at = data.index(b"IDAT", data.index(b"\x89PNG", data.index(b"\x89PNG") + 1))  # in the second image
    path.write_bytes(data[: at + 8] + bytes([data[at + 8] ^ 1]) + data[at + 9 :])
    assert differences(job) == [f"output has another hash: boxes/a.tar/{DELIVERED[1]}"]
    path.write_bytes(data.replace(b"a clean one", b"another one"))
    member = f"{job.output}/shards/boxes/{path.name}#z/0003.txt"
    assert differences(job) == [f"carried over with other bytes: {member}"]
    path.unlink()
    found = differences(job)
    assert [text for text in found if text.startswith("output is missing")] == [
        f"output is missing: boxes/a.tar/{name}" for name in sorted(DELIVERED)
    ]
    assert len(found) == 2 * len(DELIVERED) + 5


def test_single_files_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    job = Sharded(tmp_path, "parquet")
    check_layout(job.manifest)
    (tmp_path / "in/plain.png").write_bytes(png(90))
    with pytest.raises(ManifestError, match=r"output\.layout = 'parquet': .*plain\.png.*fdi pack"):
        restore.run(job.manifest, PARTS)
    assert not job.output.exists()
    uri = {"uri": str(tmp_path / "in")}
    check_layout(Sharded(tmp_path, "parquet", source=uri | {"format": "webdataset"}).manifest)
    with pytest.raises(ManifestError, match=r"source\.format: files"):
        check_layout(Sharded(tmp_path, "parquet", source=uri | {"format": "files"}).manifest)


def fakes_stage(job: Sharded, info: dict[str, Any]) -> Any:
    from fdi_lib.stages.restore import Restore

    return Restore(job.manifest, info, fakes.FakeRestorer)


def kind_classifier(manifest: Any) -> KindClassifier:
    return KindClassifier()


class KindClassifier(fakes.FakeClassifier):
    """Knows what to do about everything."""

    def _decide(self, mean: float) -> Any:
        return super()._decide(max(mean, 90.0))
