"""A real S3 server for the tests: a single-node Ceph RGW on loopback, with its data in memory.

It checks signatures, paginates listings and enforces ``If-None-Match``, which emulators don't. Needs root and Debian's
``ceph-mon ceph-osd radosgw ceph-common``; without them tests that ask for it are skipped; FDI_REQUIRE_S3=1 fails them.
Ends only the processes it started.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_S = 180
_CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_v2}/0,v1:127.0.0.1:{mon_v1}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd crush update on start = false
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
run dir = {folder}/run
pid file = {folder}/run/$name.pid
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
rgw thread pool size = 32
"""


class Gateway:
    """The process that speaks S3. What it stored lies elsewhere, and outlives it."""

    def __init__(self, launch: Callable[[], subprocess.Popen[bytes]], await_answer: Callable[[], None]) -> None:
        self._launch, self._await_answer = launch, await_answer
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers; nothing if it runs."""
        if not hasattr(self, "_process") or self._process.poll() is not None:
            self._process = self._launch()
            self._await_answer()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and who may use it."""

    endpoint_url: str
    access_key: str
    secret_key: str
    gateway: Gateway
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to be let in, and to find the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def make_bucket(self, prefix: str = "test") -> str:
        """Create a bucket with a new name and return the name."""
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    @cached_property
    def client(self):
        """Plain S3 calls, past every store and proxy."""
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server, started once for all tests (about 15 s)."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    lacks = f"{', '.join(missing)} not installed" if missing else "not root" if os.geteuid() else ""
    if lacks:
        message = f"no S3 server ({lacks}): nothing here was tested against real S3; .ci/run installs one"
        if os.environ.get("FDI_REQUIRE_S3") == "1":
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="fdi-s3-"))
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield _start(folder, started)
    finally:
        for process in reversed(started):
            process.kill()  # its data is in memory: nothing to save
            process.wait()
        shutil.rmtree(folder)


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, with this process's environment set to reach it; returns ``s3://bucket``."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.make_bucket()}"


def _start(folder: Path, started: list[subprocess.Popen[bytes]]) -> S3Server:
    for name in ("mon", "osd", "run", "log", "rgw"):
        (folder / name).mkdir()
    port, mon_v1, mon_v2 = _free_ports(3)
    fsid = str(uuid.uuid4())
    conf = folder / "ceph.conf"
    conf.write_text(_CONF.format(fsid=fsid, folder=folder, port=port, mon_v1=mon_v1, mon_v2=mon_v2))
    url, access_key, secret_key = f"http://127.0.0.1:{port}", f"AK{uuid.uuid4().hex[:18]}".upper(), uuid.uuid4().hex

    def once(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def keep(*command: str) -> subprocess.Popen[bytes]:
        with open(folder / "log" / f"{command[0]}.out", "ab") as log:
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return started[-1]

    keyring = folder / "keyring"
    everything = [word for part in ("mon", "osd", "mgr", "mds") for word in ("--cap", part, "allow *")]
    for name in ("mon.", "client.admin", "osd.0", "client.rgw.a"):
        create = [] if keyring.exists() else ["--create-keyring"]
        once("ceph-authtool", *create, str(keyring), "--gen-key", "-n", name, *everything)
    addresses = f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]"
    once("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, str(folder / "monmap"))
    ceph = ("ceph", "-c", str(conf))
    mon, osd = (("ceph-mon", "-c", str(conf), "-i", "a"), ("ceph-osd", "-c", str(conf), "-i", "0"))
    once(*mon, "--mkfs", "--monmap", str(folder / "monmap"), "--keyring", str(keyring))
    keep(*mon, "-f")
    once(*ceph, "auth", "import", "-i", str(keyring))
    once(*ceph, "osd", "create")
    once(*osd, "--mkfs")
    once(*ceph, "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
    keep(*osd, "-f")
    _wait(lambda: "1 up" in once(*ceph, "osd", "stat"), folder)
    rgw = ("radosgw", "-c", str(conf), "-n", "client.rgw.a", "-f")
    gateway = Gateway(lambda: keep(*rgw), lambda: _wait(lambda: _answers(url), folder))
    keys = ("--access-key", access_key, "--secret-key", secret_key)
    once("radosgw-admin", "-c", str(conf), "user", "create", "--uid=test", "--display-name=test", *keys)
    return S3Server(url, access_key, secret_key, gateway)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def _wait(ready, folder: Path) -> None:
    end = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > end:
            logs = "\n".join(f"{p.name}: {p.read_text()[-1000:]}" for p in sorted((folder / "log").glob("*")))
            raise RuntimeError(f"the S3 server did not start within {START_S} s\n{logs}")
        time.sleep(0.3)
