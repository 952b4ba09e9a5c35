"""The job from and to a real S3 server as its users run it, and what the command line says when that can't work.

The job is a process of its own: like a user's, it starts its own Ray, whose workers inherit the credentials. The
endpoint is named in the manifest alone, so that a store opened without the manifest's settings would be found out.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import pyvips

from fdi_lib.manifest import RestoreManifest, StorageSettings, load_manifest
from fdi_lib.records import LEDGER
from fdi_lib.storage import ledger
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.run import open_run
from fdi_lib.storage.store import ObjectEntry, Store
from jobs import cli, restore
from jobs.parts import Parts
from tests import fakes
from tests.s3 import S3Server

ROOT = Path(__file__).parents[2]
PARTS = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)
STATUSES = {"restored": 4, "clean": 1, "kept": 1, "review": 1, "failed": 1}
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
MANIFEST = """
kind: restore
source: {{uri: {source}, storage: {{endpoint_url: "{endpoint_url}", region: us-east-1}}}}
output:
  uri: {output}
  storage: {{endpoint_url: "{endpoint_url}", region: us-east-1}}
pools:
  decode: {{cpus: 0.5, memory_gib: 0.1}}
  classify: {{cpus: 0.4, memory_gib: 0.1, max: 1, batch: 4}}
  restore: {{cpus: 0.5, memory_gib: 0.1, max: 1}}
limits: {{max_failed_fraction: 0.5, wait_s: 60}}
"""


def png(mean: int, bits: int = 8) -> bytes:
    pixels = np.random.default_rng(mean).integers(mean - 5, mean + 6, (40, 56, 3)).astype(np.uint8)
    return pyvips.Image.new_from_array(pixels[..., 0] if bits == 1 else pixels).pngsave_buffer(bitdepth=bits)


def fill(source: Store) -> None:
    """One image of each status in a tar, plain ones beside it, and a text that is no image."""
    members = {"0.png": png(20), "1.png": png(60), "2.png": png(100), "3.png": png(140), "4.jpg": b""}
    files = {"boxes/a.tar": tar_bytes(list(members.items())), "plain/5 é+%20.png": png(101), "plain/6.png": png(200)}
    files |= {"plain/7.png": png(100, bits=1), "plain/notes.txt": b"no image"}
    assert all(source.create(name, data) for name, data in files.items())


@pytest.fixture(scope="module")
def environment(s3_server: S3Server) -> Iterator[None]:
    """Credentials alone: the endpoint and the region are the manifest's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_") or name == "RAY_ADDRESS"]:
            patch.delenv(name)
        for name in CREDENTIALS:
            patch.setenv(name, s3_server.environment()[name])
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@dataclass(frozen=True)
class Flow:
    """A run that is over: its manifest, what it printed, and its source's listing from before."""

    manifest: Path
    summary: dict[str, Any]
    source: Store
    output: Store
    source_before: list[ObjectEntry]
    endpoint: tuple[str, ...]

    def fdi(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
        """Run a command on the output; return its exit code and summary."""
        code = cli.main([*words, self.output.uri(), *self.endpoint, "--json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def flow(s3_server: S3Server, environment: None, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    bucket = f"s3://{s3_server.make_bucket()}"
    storage = StorageSettings(endpoint_url=s3_server.endpoint_url, region=s3_server.region)
    source, output = (Store.open(f"{bucket}/{name}", storage) for name in ("archive/masters", "restored/1"))
    fill(source)
    before = list(source.walk())
    manifest = tmp_path_factory.mktemp("flow") / "restore.yaml"
    manifest.write_text(MANIFEST.format(source=source.uri(), output=output.uri(), endpoint_url=s3_server.endpoint_url))
    command = [sys.executable, "-m", "tests.fakes", str(manifest)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    endpoint = ("--endpoint-url", s3_server.endpoint_url, "--region", s3_server.region)
    return Flow(manifest, json.loads(done.stdout.splitlines()[-1]), source, output, before, endpoint)


@pytest.mark.s3
def test_everything_is_accounted_for_on_s3(flow: Flow) -> None:
    assert {key: flow.summary[key] for key in STATUSES} == STATUSES
    assert (flow.summary["images"], flow.summary["already_done"], flow.summary["stopped_early"]) == (8, 0, False)
    assert flow.summary["output"] == flow.output.uri()
    rows = {row["image_id"]: row for row in ledger.load_effective(flow.output).to_pylist()}
    assert {name: (row["status"], row["reason"], row["composition"]) for name, row in rows.items()} == {
        "boxes/a.tar/0.png": ("clean", "", ""),
        "boxes/a.tar/1.png": ("review", "unknown", ""),
        "boxes/a.tar/2.png": ("restored", "", "noise:1.00"),
        "boxes/a.tar/3.png": ("restored", "", "haze:0.50>noise:1.00"),
        "boxes/a.tar/4.jpg": ("failed", "empty_file", ""),
        "plain/5 é+%20.png": ("restored", "", "noise:1.00"),
        "plain/6.png": ("restored", "", "scratch:1.00"),
        "plain/7.png": ("kept", "unsupported_pixels", ""),
    }
    assert rows["boxes/a.tar/2.png"]["source_uri"] == flow.source.uri("boxes/a.tar") + "#2.png"
    assert rows["plain/6.png"]["output_uri"] == flow.output.uri("images/plain/6.png")
    named = [entry.path for entry in flow.output.walk() if not entry.path.startswith(("ledger/", "_control/"))]
    images = ["boxes/a/0.png", "boxes/a/2.png", "boxes/a/3.png", "plain/5 é+%20.png", "plain/6.png", "plain/7.png"]
    others = ["failed/boxes/a.tar/4.jpg.json", "report/index.html", "review/boxes/a.tar/1.png.json", "run.json"]
    assert named == sorted([f"images/{name}{end}" for name in images for end in ("", ".json")] + others)
    info = json.loads(flow.output.read("run.json"))
    assert info["finished"] and info["ignored"] == {"txt": 1}
    assert b"boxes/a.tar/3.png" in flow.output.read("report/index.html")


@pytest.mark.s3
def test_nothing_is_written_to_the_source_and_no_secret_to_the_output(flow: Flow, s3_server: S3Server) -> None:
    assert list(flow.source.walk()) == flow.source_before
    secret = s3_server.secret_key.encode()
    assert not [entry.path for entry in flow.output.walk() if secret in flow.output.read(entry.path)]


@pytest.mark.s3
def test_a_second_run_does_nothing(flow: Flow) -> None:
    before = list(flow.output.walk())
    manifest = load_manifest(str(flow.manifest))
    assert isinstance(manifest, RestoreManifest)
    again = restore.run(manifest, PARTS)
    assert (again["images"], again["already_done"], again["units"]) == (8, 8, 0)
    assert {key: again[key] for key in STATUSES} == STATUSES
    assert list(flow.output.walk()) == before


@pytest.mark.s3
def test_status_failed_and_report(flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
    code, status = flow.fdi(capsys, "status")
    assert code == 0 and {key: status[key] for key in STATUSES} == STATUSES
    assert (status["images"], status["progress"], bool(status["finished"])) == (8, 1.0, True)
    code, failed = flow.fdi(capsys, "failed")
    assert code == 0
    assert [(row["image_id"], row["reason"]) for row in failed["rows"]] == [
        ("boxes/a.tar/4.jpg", "empty_file"),
        ("boxes/a.tar/1.png", "unknown"),
    ]
    code, report = flow.fdi(capsys, "report")
    assert (code, report["report"], report["images"]) == (0, flow.output.uri("report/index.html"), 8)


@pytest.mark.s3
def test_verify_finds_a_changed_output(flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = flow.fdi(capsys, "verify")
    assert (code, found["images"], found["rows"], found["differences"]) == (0, 8, 8, 0)
    name = "images/plain/6.png"
    data = flow.output.read(name)
    flow.output.replace(name, data[:-1] + b"\0")
    try:
        code, found = flow.fdi(capsys, "verify")
        assert (code, [(each["what"], each["name"]) for each in found["found"]]) == (
            4,
            [("output has another hash", "plain/6.png")],
        )
    finally:
        flow.output.replace(name, data)


@pytest.mark.s3
def test_retry_takes_the_endpoint_of_the_command_line(flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = load_manifest(str(flow.manifest), [f"output.uri={flow.output.uri()}-fine"])
    assert isinstance(manifest, RestoreManifest)
    run = open_run(manifest, {}, {})
    row = {"image_id": "plain/6.png", "status": "clean", "attempt": 1}
    ledger.write_part(run.store, pa.Table.from_pylist([row], schema=LEDGER), 1)
    assert cli.main(["retry", run.store.uri(), *flow.endpoint, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["images"], summary["already_done"]) == (1, 1)


# ---- what can't work


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and the one line that a command said on standard error."""
    code = cli.main(list(words))
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("fdi: "), shown
    return code, shown.err


@pytest.mark.s3
@pytest.mark.parametrize("key", CREDENTIALS)
def test_wrong_credentials(
    flow: Flow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    fresh = Store.open(flow.output.uri().removesuffix("1") + "2", StorageSettings(endpoint_url=flow.endpoint[1]))
    with monkeypatch.context() as patch:
        patch.setenv(key, "planted-0123456789")
        code, message = refused(capsys, "restore", str(flow.manifest), f"output.uri={fresh.uri()}")
        assert code == 2
        assert flow.source.uri() in message and "in the environment or profile" in message
        assert not any(text in message for text in ("planted", "Traceback"))
        code, message = refused(capsys, "status", flow.output.uri(), *flow.endpoint)
        assert code == 2 and flow.output.uri() in message and "planted" not in message
    assert list(fresh.walk()) == []
    assert list(flow.source.walk()) == flow.source_before


@pytest.mark.s3
@pytest.mark.parametrize("place", ["source", "output"])
def test_no_such_bucket(flow: Flow, capsys: pytest.CaptureFixture[str], place: str) -> None:
    before = list(flow.output.walk())
    code, message = refused(capsys, "restore", str(flow.manifest), f"{place}.uri=s3://there-is-no-such-bucket/x")
    assert code == 2
    assert "s3://there-is-no-such-bucket/x: NoSuchBucket" in message and "check the bucket's name" in message
    assert list(flow.output.walk()) == before


@pytest.fixture
def aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of a store that nobody listens for."""
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    path = tmp_path / "restore.yaml"
    url = f"http://127.0.0.1:{port}"
    path.write_text(MANIFEST.format(source="s3://bucket/in", output="s3://bucket/out", endpoint_url=url))
    return path


def test_an_endpoint_that_does_not_answer_is_an_outage(aside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, "restore", str(aside))
    assert code == 1
    assert "s3://bucket/in: no answer at http://127.0.0.1:" in message and "run again later" in message


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("s3://bucket/out", "s3://bucket/in/out", ":5: output.uri = 's3://bucket/in/out': lies inside source.uri"),
        ("s3://bucket/in", "s3://bucket/out/in", ":5: output.uri = 's3://bucket/out': contains source.uri"),
        ("decode: {cpus:", "decode: {cpuz:", ":8: pools.decode.cpuz: unknown key; did you mean pools.decode.cpus?"),
        ("wait_s: 60", "wait_s: soon", ":11: limits.wait_s = 'soon': must be a number"),
        ("s3://bucket/in", "s3://key:planted@bucket/in", ":3: source.uri = 's3://***@bucket/in': this URI carries"),
    ],
)
def test_a_wrong_manifest(
    aside: Path, capsys: pytest.CaptureFixture[str], right: str, wrong: str, expected: str
) -> None:
    aside.write_text(aside.read_text().replace(right, wrong, 1))
    code, message = refused(capsys, "restore", str(aside))
    assert code == 2
    assert message.startswith(f"fdi: {aside}{expected}") and "; " in message and "planted" not in message


def test_a_missing_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, "restore", str(tmp_path / "gone.yaml"))
    assert code == 2 and "gone.yaml: no such manifest; check the path" in message


def test_a_preset_without_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output, weights = (tmp_path / name for name in ("in", "out", "weights"))
    source.mkdir()
    weights.mkdir()
    (source / "0.png").write_bytes(png(100))
    models = "".join(f"  {key}: {weights}\n" for key in ("encoder", "base", "bank", "adapters"))
    manifest = tmp_path / "restore.yaml"
    text = f"kind: restore\nsource: {{uri: {source}}}\noutput: {{uri: {output}}}\nmodels:\n  preset: custom\n{models}"
    manifest.write_text(text)
    code, message = refused(capsys, "restore", str(manifest))
    assert code == 2
    assert f"models.encoder: {weights}/encoder.safetensors not found" in message and "set models.encoder to" in message
    assert not output.exists() and [path.name for path in source.iterdir()] == ["0.png"]
