"""The source is never written to: by what a proxy saw of every request, and with a store that would refuse it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from jobs import cli
from tests.faults import s3_bench as shared
from tests.faults.s3_bench import IMAGES, Bench
from tests.s3 import S3Server

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]
READS = {"GET", "HEAD"}
WRITES = ["s3:PutObject*", "s3:DeleteObject*", "s3:AbortMultipartUpload", "s3:RestoreObject"]


@pytest.fixture(scope="module")
def bench(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench whose server refuses to write below the source."""
    for bench in shared.start_bench(s3_server, tmp_path_factory.mktemp("read-only")):
        place = f"arn:aws:s3:::{bench.bucket}/archive/masters/*"
        statement = {"Effect": "Deny", "Principal": "*", "Action": WRITES, "Resource": place}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        s3_server.client.put_bucket_policy(Bucket=bench.bucket, Policy=json.dumps(policy))
        yield bench


@pytest.fixture
def policy_holds(bench: Bench) -> None:
    """The server really refuses, and what it refuses is writing alone."""
    client = bench.server.client
    place = {"Bucket": bench.bucket, "Key": "archive/masters/plain/02.png"}
    for attempt in (
        lambda: client.put_object(**place, Body=b""),
        lambda: client.delete_object(**place),
        lambda: client.create_multipart_upload(**place),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt()
    assert client.get_object(**place)["ContentLength"] > 0


@pytest.mark.usefixtures("policy_holds")
def test_no_command_asks_to_write_below_the_source(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, output = bench.new_run()
    before = list(bench.source.walk())
    bench.proxy.forget()

    def fdi(*words: str) -> int:
        return cli.main([*words, output.uri(), "--endpoint-url", bench.proxy.url, "--region", "us-east-1"])

    assert {**bench.restore(manifest)["summary"]}.items() >= {"images": IMAGES, **shared.STATUSES}.items()
    storage = {"endpoint_url": bench.proxy.url, "region": "us-east-1"}
    again = bench.job.run("retry", output.uri(), storage=storage)["summary"]
    assert again["images"] == IMAGES and again["units"] > 0
    assert fdi("status") == 0 and fdi("failed") == 0
    assert fdi("verify") == 0, capsys.readouterr().out
    assert fdi("report") == 0

    seen = [(record.request.method, record.request.key) for record in bench.proxy.records]
    below = [(method, key) for method, key in seen if key.startswith("archive/")]
    assert len({key for method, key in below if method == "GET"}) == 15  # two shards, thirteen plain images
    assert {method for method, _ in below} <= READS
    # Whatever is not about one key is a listing: nothing is deleted in bulk, and no bucket is changed.
    assert {record.request.method for record in bench.proxy.records if not record.request.key} <= READS
    assert not [r for r in bench.proxy.records if "uploads" in r.request.target or "?delete" in r.request.target]
    assert not [r for r in bench.proxy.records if "X-Amz-Copy-Source" in r.headers]  # a copy would be no read of ours
    assert {method for method, key in seen if key.startswith("restored/")} > READS  # else nothing was watched
    assert list(bench.source.walk()) == before
