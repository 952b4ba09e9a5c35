"""The router's shell: pulls decision rows, sends units to the Ray actors that hold their adapters, replaces the dead.

What goes where is decided in ``fdi_lib.core.routing``. Bounded everywhere: rows that wait, units in flight, actors;
when nothing more fits it stops pulling, which holds up the stream behind it. Knows no images, manifests or ledgers.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from fdi_lib.core.routing import Backlog, Unit, Worker, after_loss, choose
from fdi_lib.errors import FDIError

log = logging.getLogger(__name__)
_POLL_S = 0.1
_COPIES = 2  # units without a route in flight: they are bound by storage, not by CPU


@dataclass(frozen=True)
class Workforce:
    """Who does the work. ``ActorHandle`` needs the methods ``ready()`` and ``work(rows, attempt) -> counts``.

    Args:
        hire: starts an actor and returns its handle at once.
        finish: sends a unit that needs no model, as a plain task; returns its reference.
        give_up: turns the rows of a unit that no worker survives into rows that need no model.
        least: actors from the start.
        most: actors at most.
        capacity: adapters that one keeps loaded.
        wait_s: how long to wait for the first actor.
    """

    hire: Callable[[], Any]
    finish: Callable[[pa.Table, int], ray.ObjectRef]
    give_up: Callable[[pa.Table], pa.Table]
    least: int
    most: int
    capacity: int
    wait_s: float


class Dispatcher:
    """Routes a stream of decision rows to a workforce; use as ``for counts in dispatcher.run(tables)``."""

    def __init__(self, workforce: Workforce, backlog: Backlog, attempt: int) -> None:
        """Prepare; nothing starts yet. ``attempt`` is the number of this attempt in the ledger."""
        self.workforce, self.backlog, self.attempt = workforce, backlog, attempt
        self.stats = {"units": 0, "lost": 0, "actors": 0}
        self._actors: dict[int, Any] = {}
        self._starting: dict[ray.ObjectRef, int] = {}
        self._workers: dict[int, Worker] = {}
        self._flights: dict[ray.ObjectRef, tuple[Unit, int | None]] = {}  # in the order they were sent

    def run(self, tables: Iterator[pa.Table]) -> Generator[dict[str, Any], None, None]:
        """Yield the counts of every finished unit. Closing the generator ends all actors.

        Raises:
            FDIError: what a worker raised, as it raised it; other exceptions likewise.
        """
        stream = _Pulled(tables)
        self._deadline = time.monotonic() + self.workforce.wait_s
        try:
            for _ in range(self.workforce.least):
                self._hire()
            while True:
                while not self.backlog.full and (rows := stream.get(0 if self._flights else _POLL_S)) is not None:
                    self.backlog.add(rows, time.monotonic())
                self.backlog.flush(time.monotonic(), closed=stream.ended)
                self._send()
                if stream.ended and not self.backlog.images and not self._flights:
                    return
                yield from self._collect()
        finally:
            stream.close()
            for actor in self._actors.values():
                ray.kill(actor)

    def _hire(self) -> None:
        number = self.stats["actors"]
        self.stats["actors"] += 1
        self._actors[number] = self.workforce.hire()
        self._starting[self._actors[number].ready.remote()] = number

    def _send(self) -> None:
        copies = sum(worker is None for _, worker in self._flights.values())
        while copies < _COPIES and (index := _first_without_route(self.backlog)) is not None:
            unit = self.backlog.take(index)
            self._flights[self.workforce.finish(unit.rows, self.attempt)] = (unit, None)
            copies += 1
        while (chosen := choose(self.backlog, list(self._workers.values()))) is not None:
            index, worker = chosen
            unit = self.backlog.take(index)
            worker.assign(unit.route)
            reference = self._actors[worker.key].work.remote(unit.rows, self.attempt)
            self._flights[reference] = (unit, worker.key)
        if any(unit.route for unit in self.backlog.ready):
            busy = all(worker.in_flight for worker in self._workers.values())
            if busy and not self._starting and len(self._actors) < self.workforce.most:
                self._hire()
            if not self._workers and time.monotonic() > self._deadline:
                waited = f"{self.workforce.wait_s:.0f} s"
                raise FDIError(f"no restore actor started within {waited}; run again when nodes are there")

    def _collect(self) -> Iterator[dict[str, Any]]:
        waiting = [*self._flights, *self._starting]
        done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
        if waiting and not done:
            done, _ = ray.wait(waiting, num_returns=1, timeout=_POLL_S)
        for reference in done:
            if reference in self._starting:
                self._started(reference)
            elif reference in self._flights:  # not so when its worker's death was seen on another unit
                counts = self._landed(reference)
                if counts is not None:
                    yield counts

    def _started(self, reference: ray.ObjectRef) -> None:
        number = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayTaskError as error:
            raise cause(error) from None
        except ActorDiedError as error:
            if error.actor_init_failed:
                raise cause(error) from None
            log.warning("a restore actor died while it started: %s", error)
            del self._actors[number]
            self._hire()
            return
        self._workers[number] = Worker(number, self.workforce.capacity)

    def _landed(self, reference: ray.ObjectRef) -> dict[str, Any] | None:
        _, number = self._flights[reference]
        try:
            counts: dict[str, Any] = ray.get(reference)
        except RayTaskError as error:
            raise cause(error) from None
        except RayError as error:
            self._lost(number, reference, error)
            return None
        del self._flights[reference]
        if number is not None:
            self._workers[number].in_flight -= 1
        self.stats["units"] += 1
        return counts

    def _lost(self, number: int | None, reference: ray.ObjectRef, error: RayError) -> None:
        """Send again what a dead worker had; only the unit it was working on, its oldest, is suspected."""
        lost = [
            ref
            for ref, (_, worker) in self._flights.items()
            if ref == reference or (number is not None and worker == number)
        ]
        why = str(error).partition("\n")[0]
        log.warning("a worker died with %d units in flight; they are sent again: %s", len(lost), why)
        self.stats["lost"] += len(lost)
        suspect, *others = [self._flights.pop(ref)[0] for ref in lost]
        again = after_loss(suspect)
        if not again:
            rows = self.workforce.give_up(suspect.rows)
            log.error("given up after %d tries: %s", suspect.tries, rows["image_id"][0])
            again = [Unit("", rows)]
        self.backlog.put_back([*again, *others])
        if number is not None:
            del self._workers[number], self._actors[number]
            self._hire()


class _Pulled:
    """Reads an iterator of tables in a thread, at most a few ahead, so that finished units are never left waiting."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self.ended = False
        self._closed = threading.Event()
        self._queue: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=4)
        threading.Thread(target=self._pull, args=(tables,), daemon=True).start()

    def get(self, timeout: float) -> pa.Table | None:
        """Return the next table, or None if there is none now."""
        if self.ended:
            return None
        try:
            item = self._queue.get(block=timeout > 0, timeout=timeout or None)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise cause(item)
        self.ended = item is None
        return item

    def close(self) -> None:
        """Stop pulling; what was pulled is dropped. The thread ends with the table it waits for, if any."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _pull(self, tables: Iterator[pa.Table]) -> None:
        try:
            for table in tables:
                self._queue.put(table)
                if self._closed.is_set():
                    break
            self._queue.put(None)
        except BaseException as error:  # handed over to the thread that uses the tables
            self._queue.put(error)


def _first_without_route(backlog: Backlog) -> int | None:
    return next((index for index, unit in enumerate(backlog.ready) if not unit.route), None)


def cause(error: BaseException) -> BaseException:
    """Return the exception that our own code raised, out of Ray's wrappings."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FDIError) and not isinstance(seen, RayError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
