"""One holder at a time; a dead one is followed; clocks need not agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.errors import LeaseError, StorageOutageError, StorageRefusedError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage import lease
from fdi_lib.storage.lease import FOLDER, held, newest
from fdi_lib.storage.store import Store

ELSEWHERE = {"host": "elsewhere", "pid": "7", "started": "1", "machine": "another", "nonce": "n"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path), StorageSettings())


def put(store: Store, number: int, holder: dict[str, str] = ELSEWHERE, **told: Any) -> None:
    told = {"holder": holder, "expires": time.time() + 60, "released": False} | told
    assert store.create(f"{FOLDER}{number:012d}.json", json.dumps(told).encode())


def no_loss() -> None:
    raise AssertionError("the lease was lost")


def test_it_is_renewed_given_back_and_taken_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in (1, 3):
        with held(store, no_loss):
            now = newest(store)
            assert now and now.number == first and not now.released
        now = newest(store)
        assert now and now.released and len(list(store.walk(FOLDER))) == 1
    monkeypatch.setattr(lease, "_RENEWALS", 200)  # often, and yet a slow disk loses nothing
    with held(store, no_loss, duration_s=20):
        while (now := newest(store)) and now.number <= 10:
            time.sleep(0.1)
        assert now and len(list(store.walk(FOLDER))) <= 5


def test_two_jobs_of_one_machine_learn_of_each_other_at_once(store: Store) -> None:
    started = time.monotonic()
    with held(store, no_loss), pytest.raises(LeaseError, match=r"process \d+ on .* is at work"), held(store, no_loss):
        pass
    assert time.monotonic() - started < 5


def test_a_job_elsewhere_is_noticed_by_its_renewal_whatever_its_clock_says(store: Store) -> None:
    put(store, 41, expires=time.time() - 300)  # its clock is behind by minutes
    threading.Timer(0.5, put, (store, 42), {"expires": time.time() - 240}).start()
    with pytest.raises(LeaseError, match="process 7 on elsewhere"), held(store, no_loss, duration_s=3):
        pass


@pytest.mark.parametrize("expires_in_s", [-300, 30, 10**6])  # 10**6: its clock is ahead by days
def test_a_lease_that_nobody_renews_is_taken_after_its_time_by_our_clock(store: Store, expires_in_s: float) -> None:
    put(store, 41, expires=time.time() + expires_in_s)
    started = time.monotonic()
    with held(store, no_loss, duration_s=3):
        assert 3 < time.monotonic() - started < 30
        now = newest(store)
        assert now and now.number == 42 and now.holder != ELSEWHERE


def test_a_released_and_a_long_expired_lease_are_free_at_once(store: Store) -> None:
    started = time.monotonic()
    put(store, 1, released=True)
    with held(store, no_loss):
        pass
    put(store, 9, expires=time.time() - 86400)
    with held(store, no_loss):
        pass
    assert time.monotonic() - started < 5


def test_a_killed_job_of_this_machine_is_followed_at_once(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom fdi_lib.manifest import StorageSettings\nfrom fdi_lib.storage.lease import held\n"
        "from fdi_lib.storage.store import Store\n"
        "with held(Store.open(sys.argv[1], StorageSettings()), print):\n    print('held', flush=True)\n"
        "    time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"held\n"
    with pytest.raises(LeaseError, match=f"process {other.pid} "), held(store, no_loss):
        pass
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until it is waited for
    started = time.monotonic()
    with held(store, no_loss):
        assert time.monotonic() - started < 5
    other.wait()
    other.stdout.close()


def test_whoever_is_overtaken_is_told_and_does_not_take_it_back(store: Store) -> None:
    told = threading.Event()
    with pytest.raises(LeaseError, match="lease was lost"), held(store, told.set, duration_s=0.6):
        put(store, 50)
        assert told.wait(5)
    now = newest(store)
    assert now and now.number == 50 and now.holder == ELSEWHERE


def test_an_outage_as_long_as_the_lease_loses_it_and_a_shorter_one_does_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, create, down = threading.Event(), store.create, threading.Event()

    def flaky(path: str, data: bytes) -> bool:
        if down.is_set():
            raise StorageOutageError("no answer")
        return create(path, data)

    monkeypatch.setattr(store, "create", flaky)
    with pytest.raises(LeaseError, match="could not be renewed"), held(store, told.set, duration_s=1.2):
        down.set()
        time.sleep(0.9)
        down.clear()
        time.sleep(1.0)
        assert not told.is_set()
        down.set()
        assert told.wait(5)


def test_a_refusal_loses_the_lease_and_says_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told, create = threading.Event(), store.create

    def expired(path: str, data: bytes) -> bool:
        if told.is_set() or "000000000001" not in path:
            raise StorageRefusedError("ExpiredToken; renew the credentials")
        return create(path, data)

    monkeypatch.setattr(store, "create", expired)
    with pytest.raises(LeaseError, match="ExpiredToken"), held(store, told.set, duration_s=0.6):
        assert told.wait(5)


def test_a_number_that_was_removed_meanwhile_gives_no_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a slow taker's look and its creation the holder goes on by some generations, and removes old ones."""
    put(store, 3, expires=time.time() - 10**6)
    real, seen = lease.newest, []

    def slow(store: Store) -> lease.Generation | None:
        found = real(store)
        if not seen:
            seen.append(found)
            put(store, 9)
        return found

    monkeypatch.setattr(lease, "newest", slow)
    with pytest.raises(LeaseError, match="elsewhere"), held(store, no_loss):
        pass


def test_an_answer_that_was_lost_is_recognised(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create = store.create

    def forgetful(path: str, data: bytes) -> bool:
        create(path, data)
        return False

    monkeypatch.setattr(store, "create", forgetful)
    with held(store, no_loss):
        now = newest(store)
        assert now and now.number == 1
