"""One job at a time on one output: a lease made of numbered generations, each created once.

The newest generation counts. Its holder renews it by creating the next one; who wants it watches, and takes it when
nothing was renewed for as long as a lease lasts *by the watcher's own clock*, so that clocks may differ. A lease whose
holder was a process of this machine and is gone, or one long expired, is taken at once. Results stay correct even where
two jobs overlap, since outputs are created once: the lease saves work, it does not guard the truth. Does NOT know what
the output is.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdi_lib.errors import FDIError, LeaseError, StorageOutageError
from fdi_lib.storage.store import Store

log = logging.getLogger(__name__)
FOLDER = "_control/lease/"
DURATION_S = 60.0
_RENEWALS = 3  # in the time that a lease lasts
_KEPT = 4  # generations that are not removed: who has just read one finds it again
_SKEW_S = 900.0  # by which clocks may differ before an expiry date is believed
_ours: set[str] = set()  # nonces of the leases that this process holds


@dataclass(frozen=True)
class Generation:
    """One generation: its number, who created it, until when by that one's clock, and whether it was given back."""

    number: int
    holder: dict[str, str]
    expires: float
    released: bool

    @property
    def name(self) -> str:
        """Who holds it, for people."""
        return f"process {self.holder['pid']} on {self.holder['host']}"

    @property
    def is_gone(self) -> bool:
        """Whether who held it was a process that could be seen from here, and is not there."""
        seen = _seen_from_here(self.holder) and _started(int(self.holder["pid"])) is not None
        return seen and not _is_running(self.holder)


def newest(store: Store) -> Generation | None:
    """The generation that counts; None where nobody ever took the lease."""
    path = ""
    for _ in range(_KEPT):
        for entry in store.walk(FOLDER):
            path = entry.path
        if not path:
            return None
        try:
            told = json.loads(store.read(path))
        except FileNotFoundError:  # removed since it was listed: newer ones are there
            continue
        number = int(path.removeprefix(FOLDER).removesuffix(".json"))
        return Generation(number, told["holder"], told["expires"], told["released"])
    raise StorageOutageError(f"{store.uri(FOLDER)}: the listing does not show what is there; run again")


@contextmanager
def held(store: Store, on_loss: Callable[[], None], duration_s: float = DURATION_S) -> Iterator[None]:
    """Hold the lease for the block; give it back at the end.

    Args:
        store: the output.
        on_loss: called, from another thread, when the lease can't be kept.
        duration_s: how long it lasts without renewal.

    Raises:
        LeaseError: another job holds it, or, at the end, took it over.
    """
    holder = _holder()
    mine = _take(store, holder, duration_s)
    _ours.add(holder["nonce"])
    keeper = _Keeper(store, holder, mine, on_loss, duration_s)
    keeper.start()
    try:
        yield
    finally:
        keeper.release()
        _ours.discard(holder["nonce"])
    if keeper.lost:
        raise LeaseError(f"{store.uri()}: the lease was lost ({keeper.lost}); this job stopped, nothing else is lost")


class _Keeper(threading.Thread):
    """Renews until it is told to stop, or has lost."""

    def __init__(
        self, store: Store, holder: dict[str, str], number: int, on_loss: Callable[[], None], duration_s: float
    ) -> None:
        super().__init__(daemon=True, name="lease")
        self.lost = ""
        self._lost_once = threading.Lock()
        self._store, self._holder, self._number = store, holder, number
        self._on_loss, self._duration_s = on_loss, duration_s
        self._end = threading.Event()

    def run(self) -> None:
        """Renew in time; after an outage as long as the lease lasts, it counts as lost."""
        overdue, pause = self._overdue(), self._duration_s / _RENEWALS
        while not self._end.wait(pause) and not self.lost:
            try:
                self._number = _create(self._store, self._number + 1, self._holder, self._duration_s)
                overdue.cancel()
                overdue, pause = self._overdue(), self._duration_s / _RENEWALS
                self._remove_old()
            except StorageOutageError as error:
                log.warning("the lease could not be renewed: %s", error)
                pause = min(1.0, self._duration_s / 10)
            except Exception as error:  # overtaken, or expired credentials: whatever it is, the lease is not kept
                self._lose(str(error) or type(error).__name__)
        overdue.cancel()

    def _overdue(self) -> threading.Timer:
        """A clock of its own: under throttling one renewal alone may be tried for longer than the lease lasts."""
        timer = threading.Timer(self._duration_s, self._lose, ["it could not be renewed in time"])
        timer.daemon = True
        timer.start()
        return timer

    def _lose(self, why: str) -> None:
        with self._lost_once:
            if self.lost:
                return
            self.lost = why
        log.error("the lease was lost: %s", why)
        self._on_loss()

    def release(self) -> None:
        """Stop renewing and give the lease back."""
        self._end.set()
        while self.is_alive() and not self.lost:
            self.join(0.5)
        if self.lost:
            return
        try:
            self._number = _create(self._store, self._number + 1, self._holder, 0.0, released=True)
            self._remove_old(kept=1)
        except FDIError as error:
            log.warning("the lease could not be given back: %s", error)

    def _remove_old(self, kept: int = _KEPT) -> None:
        for entry in list(self._store.walk(FOLDER)):
            if entry.path <= _path(self._number - kept):
                self._store.delete(entry.path)


def _take(store: Store, holder: dict[str, str], duration_s: float) -> int:
    """Return the number of our first generation."""
    seen = newest(store)
    if seen is None:
        return _create(store, 1, holder, duration_s)
    if _is_running(seen.holder) and not seen.released:
        raise _is_held(store, seen)
    if not (seen.released or seen.is_gone or time.time() > seen.expires + _SKEW_S):
        log.warning("%s: the lease of %s may be alive; watching it for %.0f s", store.uri(), seen.name, duration_s)
        watched_till = time.monotonic() + 1.1 * duration_s
        while time.monotonic() < watched_till:
            time.sleep(min(1.0, duration_s / 10))
            now = newest(store)
            assert now is not None
            if now.released:
                seen = now
                break
            if now.number != seen.number:
                raise _is_held(store, now)
    return _create(store, seen.number + 1, holder, duration_s)


def _create(store: Store, number: int, holder: dict[str, str], duration_s: float, released: bool = False) -> int:
    """Create a generation and return its number.

    Raises:
        LeaseError: somebody else did.
    """
    told = {"holder": holder, "expires": round(time.time() + duration_s, 1), "released": released}
    if not store.create(_path(number), json.dumps(told, indent=1).encode()):
        there = newest(store)  # our own, when the answer to a first try was lost
        if there is None or there.number != number or there.holder != holder:
            raise _is_held(store, there)
    now = newest(store)  # older generations are removed: a number long gone could be created again
    if now is None or now.number != number:
        raise _is_held(store, now)
    return number


def _path(number: int) -> str:
    return f"{FOLDER}{number:012d}.json"


def _is_held(store: Store, by: Generation | None) -> LeaseError:
    who = by.name if by else "another job"
    return LeaseError(f"{store.uri()}: {who} is at work on this output; run again when it is done, or end it first")


def _holder() -> dict[str, Any]:
    """This process, so that another one can tell whether it is gone."""
    return {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "started": _started(os.getpid()) or "",
        "machine": _machine(),
        "nonce": uuid.uuid4().hex,
    }


def _is_running(holder: dict[str, str]) -> bool:
    """Whether the holder is a process that can be seen from here, and is there."""
    if not _seen_from_here(holder) or _started(int(holder["pid"])) != holder["started"]:
        return False
    return int(holder["pid"]) != os.getpid() or holder["nonce"] in _ours


def _seen_from_here(holder: dict[str, str]) -> bool:
    return bool(holder["machine"]) and (holder["host"], holder["machine"]) == (socket.gethostname(), _machine())


def _machine() -> str:
    """This boot of this machine and its table of processes (containers have their own); empty where it can't tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; empty if there is none, or only its exit code is left.

    None if it is there, but /proc doesn't show it: another user's, where it is mounted with ``hidepid``.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if _exists(pid) else ""
    return "" if state[0] in "ZX" else state[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # there, and somebody else's
    return True
