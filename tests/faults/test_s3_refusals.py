"""The job from S3 where single objects are refused: they fail, by name and remedy, and everything else is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import s3_bench as shared
from tests.faults.proxy import Fault, Request
from tests.faults.s3_bench import Bench, rows_of
from tests.s3 import S3Server

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]
DENIED, ARCHIVED, SHARD = "plain/14.png", "plain/17.png", "boxes/b.tar"


@pytest.fixture(scope="module")
def bench(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield from shared.start_bench(s3_server, tmp_path_factory.mktemp("refusals"))


def _refused(request: Request) -> Fault | None:
    if request.key.endswith(f"masters/{DENIED}"):
        return Fault(status=403, code="AccessDenied")
    if request.method == "GET" and request.key.endswith((f"masters/{ARCHIVED}", f"masters/{SHARD}")):
        return Fault(status=403, code="InvalidObjectState")
    return None


def test_single_objects_that_are_refused_fail_and_are_done_later(bench: Bench) -> None:
    in_shard = 13
    bench.proxy.rule = _refused
    manifest, output = bench.new_run()
    answer = bench.restore(manifest)
    summary = answer["summary"]
    assert summary["images"] == shared.IMAGES - in_shard + 1 and not summary["stopped_early"]
    failed = {i: row for i, row in rows_of(output).items() if row["reason"] in ("access_denied", "archived")}
    assert {i: row["reason"] for i, row in failed.items()} == {
        DENIED: "access_denied", ARCHIVED: "archived", SHARD: "archived",
    }  # fmt: skip
    assert all(row["status"] == "failed" for row in failed.values())
    assert "s3:GetObject" in failed[DENIED]["detail"] and "fdi retry" in failed[DENIED]["detail"]
    assert "archive tier, then run `fdi retry`" in failed[ARCHIVED]["detail"]

    bench.proxy.forget()
    storage = {"endpoint_url": bench.proxy.url, "region": bench.server.region}
    bench.job.run("retry", output.uri(), storage=storage)
    rows = rows_of(output)
    assert [rows[image_id]["reason"] for image_id in (DENIED, ARCHIVED)] == ["", ""]
    assert rows[SHARD]["status"] == "failed"


def test_rights_to_everything_that_go_in_the_middle_end_the_job(bench: Bench) -> None:
    reads = 0

    def rule(request: Request) -> Fault | None:
        nonlocal reads
        reads += request.method == "GET" and "masters/plain" in request.key
        return Fault(status=403, code="AccessDenied") if reads > 3 else None

    bench.proxy.rule = rule
    manifest, _ = bench.new_run()
    answer = bench.restore(manifest)
    assert (answer.get("error"), answer.get("exit_code")) == ("StorageRefusedError", 2), answer
    bench.proxy.forget()
    assert {key: bench.restore(manifest)["summary"][key] for key in shared.STATUSES} == shared.STATUSES
