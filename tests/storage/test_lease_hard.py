"""A lease on a store that throttles, and one whose holder /proc hides."""

from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from fdi_lib.errors import LeaseError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage import lease
from fdi_lib.storage.lease import held, newest
from fdi_lib.storage.s3 import CONFIG, S3Store
from fdi_lib.storage.store import Store
from tests.storage.test_lease import no_loss, put
from tests.storage.test_s3_failures import _aside, _error, _say, _server


class Bucket:
    """As much of S3 as a lease needs; says SlowDown to every write while ``slow`` is set."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.slow = threading.Event()
        self.refused = 0

    def __call__(self, request: BaseHTTPRequestHandler, number: int) -> None:
        key = request.path.partition("?")[0].removeprefix("/bucket").lstrip("/")
        if request.command == "PUT" and self.slow.is_set():
            self.refused += 1
            _error(request, 503, "SlowDown")
        elif request.command == "PUT":
            won = self.objects.setdefault(key, request.body) is request.body
            _say(request, 200 if won else 412)
        elif request.command == "DELETE":
            self.objects.pop(key, None)
            _say(request, 204)
        elif "list-type=2" in request.path:
            item = "<Contents><Key>{}</Key><Size>1</Size><ETag>e</ETag></Contents>"
            items = "".join(map(item.format, sorted(self.objects)))
            _say(request, 200, f"<ListBucketResult>{items}</ListBucketResult>".encode())
        elif key in self.objects:
            _say(request, 200, self.objects[key])
        else:
            _error(request, 404, "NoSuchKey")


def _on(bucket: Bucket, url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = _aside(monkeypatch, url)
    assert isinstance(store, S3Store)
    store.config = {**CONFIG, "retries": {"total_max_attempts": 2, "mode": "standard"}}
    return store


def test_a_storm_of_slowdown_that_outlasts_the_lease_stops_its_holder_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though a single renewal is tried for longer than that, and would succeed in the end."""
    bucket, told = Bucket(), threading.Event()
    with _server(bucket) as url:
        store = _on(bucket, url, monkeypatch)
        with pytest.raises(LeaseError, match="could not be renewed in time"), held(store, told.set, duration_s=3.0):
            bucket.slow.set()
            began = time.monotonic()
            assert told.wait(10)
            assert time.monotonic() - began < 5 and bucket.refused > 2
        bucket.slow.clear()
        time.sleep(3)  # for what is still being tried
        kept = newest(store)
        assert kept and not kept.released
        with held(store, no_loss, duration_s=1.0):  # the next job follows
            now = newest(store)
            assert now and now.number > kept.number


def test_a_shorter_storm_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    with _server(bucket) as url:
        store = _on(bucket, url, monkeypatch)
        with held(store, no_loss, duration_s=9.0):
            time.sleep(2)
            bucket.slow.set()
            while bucket.refused < 3:
                time.sleep(0.05)
            bucket.slow.clear()
            before = newest(store)
            time.sleep(7)
            now = newest(store)
            assert before and now and now.number > before.number and now.holder == before.holder
        last = newest(store)
        assert last and last.released


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A holder of this machine, alive, of another user, whom /proc does not show."""
    pid = 4_194_305
    read, kill = Path.read_text, os.kill

    def hiding(self: Path, *arguments: str, **settings: str) -> str:
        if self == Path(f"/proc/{pid}/stat"):
            raise FileNotFoundError(self)
        return read(self, *arguments, **settings)

    def forbidding(which: int, signal: int) -> None:
        if which == pid:
            raise PermissionError(which)
        kill(which, signal)

    monkeypatch.setattr(Path, "read_text", hiding)
    monkeypatch.setattr(os, "kill", forbidding)
    return lease._holder() | {"pid": str(pid), "started": "12345"}


def test_a_live_holder_that_proc_hides_is_not_taken_for_dead(tmp_path: Path, hidden: dict[str, str]) -> None:
    store = Store.open(str(tmp_path), StorageSettings())
    put(store, 5, hidden)
    threading.Timer(0.5, put, (store, 6, hidden)).start()
    with pytest.raises(LeaseError, match="process 4194305 on"), held(store, no_loss, duration_s=2.0):
        pass


def test_one_that_hangs_is_followed_after_a_lease_s_time(tmp_path: Path, hidden: dict[str, str]) -> None:
    store = Store.open(str(tmp_path), StorageSettings())
    put(store, 5, hidden)
    began = time.monotonic()
    with held(store, no_loss, duration_s=0.8):
        assert time.monotonic() - began > 0.8


def test_what_proc_hides_and_is_gone_is_gone(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path), StorageSettings())
    put(store, 5, lease._holder() | {"pid": "4194306", "started": "12345"})
    began = time.monotonic()
    with held(store, no_loss, duration_s=30.0):
        assert time.monotonic() - began < 5
