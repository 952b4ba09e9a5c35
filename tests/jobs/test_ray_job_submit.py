"""The restore job under ``ray job submit`` on a head of its own: it joins that cluster instead of starting one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_RAY = Path(sys.executable).parent / "ray"
_REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # a head with its dashboard takes most of a minute to start on two busy cores


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of the dashboard of a fresh head, and the environment to talk to it."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(_REPOSITORY)}
    dashboard = free_port()
    ports = {"port": free_port(), "dashboard-port": dashboard, "ray-client-server-port": free_port()}
    ports |= {"dashboard-agent-listen-port": free_port(), "metrics-export-port": free_port()}
    command = [_RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += ["--include-dashboard=true", "--object-store-memory=200000000", f"--temp-dir=/tmp/ray-{os.getpid()}"]
    command += [f"--{name}={number}" for name, number in ports.items()]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not answers(dashboard):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "head.log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the session that we started, and nothing else
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


def test_a_submitted_job_joins_its_cluster_and_restores(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = head
    source = tmp_path / "in"
    source.mkdir()
    for number in range(4):
        Image.fromarray(np.full((32, 32, 3), 20 + 30 * number, np.uint8)).save(source / f"{number}.png")
    manifest = tmp_path / "restore.yaml"
    pool = "{cpus: 0.5, memory_gib: 0.2, max: 1}"
    manifest.write_text(
        f"kind: restore\nsource: {{uri: {source}}}\noutput: {{uri: {tmp_path / 'out'}}}\n"
        f"pools: {{decode: {{cpus: 0.6, memory_gib: 0.2}}, classify: {pool}, restore: {pool}}}\n"
        "limits: {max_failed_fraction: 1.0}\n"
    )
    command = [_RAY, "job", "submit", "--address", address, "--", sys.executable, "-m", "tests.fakes", str(manifest)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"images"')))
    assert (summary["images"], summary["clean"], summary["review"], summary["restored"]) == (4, 1, 1, 2)
    assert sorted(path.name for path in (tmp_path / "out/images").glob("*.png")) == ["0.png", "2.png", "3.png"]
