"""Credentials are nowhere but where they came from: not in results, not in logs, not in messages.

The command line runs as its users run it, a process of its own. What it wrote is searched: standard output and error,
every object of the output (Parquet by its values), and all that Ray left in its session's folder.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fdi_lib.errors import StorageOutageError, StorageRefusedError
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.storage.pack import parquet_bytes, tar_bytes
from fdi_lib.storage.s3 import CONFIG, S3Store
from fdi_lib.storage.store import Store
from jobs import cli
from tests.faults.proxy import Fault, FaultProxy
from tests.faults.s3_bench import png
from tests.s3 import S3Server

ROOT = Path(__file__).parents[2]
TOKENS = {name: f"planted-{name.lower()}" for name in ("AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY")}
MANIFEST = """
kind: restore
source: {{uri: {bucket}/in, storage: {{region: us-east-1}}}}
output: {{uri: {bucket}/out, storage: {{region: us-east-1}}}}
pools:
  decode: {{cpus: 0.5, memory_gib: 0.1}}
  classify: {{cpus: 0.4, memory_gib: 0.1, max: 1}}
  restore: {{cpus: 0.5, memory_gib: 0.1, max: 1, batch: 1}}
restore: {{steps: 2}}
limits: {{max_failed_fraction: 0.9, wait_s: 60}}
"""


class Place:
    """A bucket with three images, a manifest, and processes that leave all they write where it can be searched."""

    def __init__(self, server: S3Server, folder: Path, short: Path) -> None:
        self.server, self.folder, self.ray = server, folder, short
        self.bucket = f"s3://{server.make_bucket()}"
        source = self.store("in")
        source.create("a.tar", tar_bytes([("0.png", png(100, 0)), ("1.png", b"broken")]))
        source.create("2.png", png(20, 2))
        self.manifest = folder / "restore.yaml"
        self.manifest.write_text(MANIFEST.format(bucket=self.bucket))
        self.profiles = folder / "credentials"
        self.secrets = [server.access_key, server.secret_key, *TOKENS.values(), "planted-key", "planted-secret"]
        keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
        self.profiles.write_text(f"[archive]\n{keys}[default]\n{keys.replace(server.secret_key, 'planted-secret')}")

    def store(self, prefix: str) -> Store:
        storage = StorageSettings(endpoint_url=self.server.endpoint_url, region=self.server.region)
        return Store.open(f"{self.bucket}/{prefix}", storage)

    def fdi(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command with tokens in its environment that nothing needs, and look at what it said."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and k != "RAY_ADDRESS"}
        own = TOKENS | {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.profiles),
            "AWS_CONFIG_FILE": str(self.folder / "none"),
            "AWS_ENDPOINT_URL": self.server.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_TMPDIR": str(self.ray),
        }
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *words, "--verbose"],
            capture_output=True, text=True, cwd=ROOT, env=inherited | own | environment, timeout=280, check=False,
        )  # fmt: skip
        self.search("standard output and error", (done.stdout + done.stderr).encode())
        return done

    def search(self, what: str, data: bytes) -> None:
        """Look for every secret."""
        found = [secret for secret in self.secrets if secret.encode() in data]
        assert not found, f"{what} tells {len(found)} secrets: {data[:200]!r}"


@pytest.fixture(scope="module")
def place(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    short = Path(tempfile.mkdtemp(prefix="fdi-"))  # Ray's sockets allow no long paths
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3_server.environment().items():
                patch.setenv(name, value)
            yield Place(s3_server, tmp_path_factory.mktemp("secrets"), short)
    finally:
        shutil.rmtree(short, ignore_errors=True)


def told(data: bytes, path: str) -> bytes:
    """What a file says: a Parquet file's values and metadata, for its pages are compressed."""
    if not path.endswith(".parquet"):
        return data
    table = pq.read_table(io.BytesIO(data))
    return json.dumps([table.to_pylist(), str(table.schema.metadata)], default=str).encode()


def test_the_search_finds_what_is_there(place: Place) -> None:
    """A search that finds nothing proves something only if it could find it."""
    secret = place.secrets[1].encode()
    for path, data in (("a.json", b"{%s}" % secret), ("a.parquet", parquet_bytes([("a.png", secret)]))):
        with pytest.raises(AssertionError, match="tells 1 secrets"):
            place.search(path, told(data, path))


@pytest.mark.s3
def test_a_run_tells_no_secret(place: Place) -> None:
    done = place.fdi("restore", str(place.manifest), AWS_PROFILE="archive")
    assert done.returncode == 0, done.stderr[-4000:]
    done = place.fdi("plan", str(place.manifest), f"output.uri={place.bucket}/plan", AWS_PROFILE="archive")
    assert done.returncode == 0, done.stderr[-4000:]
    seen = set()
    for prefix in ("out", "plan"):
        store = place.store(prefix)
        for entry in store.walk():
            seen.add(entry.path.partition("/")[0])
            place.search(entry.path, told(store.read(entry.path), entry.path))
    assert seen == {"_control", "failed", "images", "ledger", "plan.parquet", "report", "run.json"}
    logs = [path for path in place.ray.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name.startswith("worker-") for path in logs) and any("raylet" in path.name for path in logs)
    for path in logs:
        place.search(str(path.relative_to(place.ray)), path.read_bytes())


@pytest.mark.s3
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "SignatureDoesNotMatch"),  # the default profile's secret is a wrong one
        (("source.uri=s3://there-is-no-such-bucket/x",), 2, "source"),
        (("output.uri=s3://there-is-no-such-bucket/x",), 2, ""),
    ],
    ids=["wrong secret", "no such source bucket", "no such output bucket"],
)
def test_a_failing_run_tells_no_secret(place: Place, words: tuple[str, ...], code: int, said: str) -> None:
    profile = "archive" if words else "default"
    done = place.fdi("restore", str(place.manifest), *words, AWS_PROFILE=profile)
    assert done.returncode == code and done.stderr.startswith("fdi: s3://"), done.stderr
    assert ("NoSuchBucket" if words else said) in done.stderr


@pytest.mark.s3
@pytest.mark.slow
def test_a_run_that_ends_in_an_outage_tells_no_secret(place: Place) -> None:
    with FaultProxy(place.server.endpoint_url) as proxy:
        proxy.rule = lambda request: (
            Fault(status=503) if request.method == "PUT" and "/images/" in request.key else None
        )
        words = ("restore", str(place.manifest), f"output.uri={place.bucket}/outage")
        done = place.fdi(*words, AWS_PROFILE="archive", AWS_ENDPOINT_URL=proxy.url)
    assert done.returncode == 1 and "fdi: s3://" in done.stderr and "run again later" in done.stderr, done.stderr
    for path in place.ray.rglob("*"):
        if path.is_file() and not path.is_symlink():
            place.search(str(path.relative_to(place.ray)), path.read_bytes())


@pytest.mark.s3
def test_refused_keys_and_tokens_of_the_environment_are_not_told(place: Place) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "planted-key", "AWS_SECRET_ACCESS_KEY": "planted-secret"}
    done = place.fdi("status", f"{place.bucket}/out", **keys)
    assert done.returncode == 2 and done.stderr.startswith("fdi: s3://"), done.stderr


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://planted:planted-secret@127.0.0.1:9", StorageOutageError),
        ("http://planted:planted-secret@ho st", StorageRefusedError),
    ],
)
def test_a_password_in_the_environments_endpoint_is_not_told(
    monkeypatch: pytest.MonkeyPatch, url: str, error: type[Exception]
) -> None:
    """No manifest may hold one; the environment's is botocore's business, but the message is ours."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    store = S3Store.at_uri("s3://bucket/out", StorageSettings(region="us-east-1"))
    store.config = {**CONFIG, "retries": {"total_max_attempts": 1}}
    with pytest.raises(error, match="s3://bucket") as caught:
        store.read("run.json")
    assert "planted" not in str(caught.value)


ROWS = [
    "s3://planted:planted-secret@bucket/a.png",
    "s3://bucket/a.png?X-Amz-Credential=planted&X-Amz-Signature=planted-secret",
    "https://bucket.host/a.png?sig=planted-secret",
]


@pytest.mark.parametrize("uri", ROWS)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_inventory_with_a_secret_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str, form: str
) -> None:
    """Signed links are what a colleague's export may hold: they would be kept in the ledger for ever."""
    listed = tmp_path / f"list.{form}"
    listed.write_text(f"uri\na.png\n{uri}\n" if form == "csv" else f'{{"uri": "a.png"}}\n{json.dumps({"uri": uri})}\n')
    (tmp_path / "a.png").write_bytes(png(100, 0))
    manifest = tmp_path / "restore.yaml"
    manifest.write_text(f"kind: restore\nsource: {{uri: {listed}, format: inventory}}\noutput: {{uri: out}}\n")
    assert cli.main(["restore", str(manifest), f"output.uri={tmp_path / 'out'}"]) == 2
    shown = capsys.readouterr()
    line = 3 if form == "csv" else 2
    assert f"{listed}:{line}: uri" in shown.err and "carries a credential" in shown.err
    assert "planted" not in shown.err + shown.out and not (tmp_path / "out").exists()
