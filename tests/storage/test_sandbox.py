"""The sandbox: what hangs, crashes, bloats or stumbles costs one call, and the next one works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdi_lib.errors import ItemError
from fdi_lib.storage import sandbox as module
from fdi_lib.storage.sandbox import Sandbox
from tests import sandboxed


@pytest.fixture
def sandbox():
    made = Sandbox()
    yield made
    made.close()


def reason(sandbox: Sandbox, function, data: bytes = b"", timeout_s: float = 20, **settings) -> tuple[str, str]:
    with pytest.raises(ItemError) as caught:
        sandbox.call(function, data, timeout_s, **settings)
    return caught.value.reason, caught.value.detail


def test_what_goes_in_and_what_comes_out(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 3000
    told, (array, empty) = sandbox.call(sandboxed.echo, data, 20, factor=3)
    assert told["bytes"] == len(data) and told["pid"] != os.getpid()
    np.testing.assert_array_equal(array, np.frombuffer(data, np.uint8).astype(np.uint16) * 3)
    assert empty.shape == (2, 0, 3) and empty.dtype == np.float32
    assert sandbox.call(sandboxed.echo, b"", 20)[0] == {"pid": told["pid"], "bytes": 0}  # the same child


def test_what_a_reader_says_comes_back_as_it_said_it(sandbox: Sandbox) -> None:
    assert reason(sandbox, sandboxed.refuse) == ("truncated", "as the reader said")


def test_a_bug_names_itself_and_costs_one_call(sandbox: Sandbox) -> None:
    kind, detail = reason(sandbox, sandboxed.stumble, b"7")
    assert kind == "unreadable" and "IndexError at sandboxed.py:" in detail and "report" in detail


def test_a_hang_ends_in_time(sandbox: Sandbox) -> None:
    sandbox.call(sandboxed.echo, b"", 20)
    started = time.monotonic()
    assert reason(sandbox, sandboxed.hang, timeout_s=0.5) == ("timeout", "not decoded within 0.5 s")
    assert time.monotonic() - started < 10
    assert sandbox.call(sandboxed.echo, b"abc", 20)[0]["bytes"] == 3


def test_a_crash_is_tried_once_more(sandbox: Sandbox, tmp_path: Path) -> None:
    marker = tmp_path / "crash once"
    marker.touch()
    assert sandbox.call(sandboxed.crash, str(marker).encode(), 20) == ({}, []) and not marker.exists()
    assert reason(sandbox, sandboxed.crash_always) == ("decoder_died", "its decoder died of SIGSEGV, twice")
    assert sandbox.call(sandboxed.echo, b"abc", 20)[0]["bytes"] == 3


def test_what_an_interrupted_call_left_in_the_pipe_is_nobody_elses(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.receive

    def short_of_memory(stream: Any) -> Any:
        raise MemoryError

    sandbox.call(sandboxed.echo, b"", 20)
    monkeypatch.setattr(module, "receive", short_of_memory)
    with pytest.raises(MemoryError):
        sandbox.call(sandboxed.echo, b"one", 20)
    monkeypatch.setattr(module, "receive", real)
    _, (array, _) = sandbox.call(sandboxed.echo, b"another", 20)
    assert bytes(array.astype(np.uint8)) == b"another"


def test_no_secret_of_the_environment_goes_in(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    assert sandbox.call(sandboxed.environment, b"", 20)[0]["names"].count("AWS_SECRET_ACCESS_KEY") == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_memory_beyond_the_allowance_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.call(sandboxed.grow, b"", 20, mib=100)[0] == {"sum": 3}
    kind, detail = reason(sandbox, sandboxed.grow, mib=400)
    assert kind == "decoder_died" and "memory" in detail
    assert sandbox.call(sandboxed.grow, b"", 20, mib=100)[0] == {"sum": 3}


def test_nothing_can_be_written_to_a_file(sandbox: Sandbox, tmp_path: Path) -> None:
    assert "OSError" in reason(sandbox, sandboxed.write, str(tmp_path / "out").encode())[1]


def test_what_a_library_prints_gets_into_no_answer(sandbox: Sandbox) -> None:
    assert sandbox.call(sandboxed.chatter, b"", 20) == ({}, [])


def test_a_child_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "from fdi_lib.storage.sandbox import shared; from tests import sandboxed\n"
        "print(shared().call(sandboxed.echo, b'', 20)[0]['pid'], flush=True)\n"
        "shared().call(sandboxed.hang, b'', 1.0)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < end, "the child outlives its parent"
        time.sleep(0.05)
