"""The router's shell: pulls decision rows, sends units to the Ray actors that hold their adapters, replaces the dead.

A unit whose worker died, or could not load an adapter, is sent again, elsewhere; what no worker survives is given up as
failed rows. What goes where is decided in ``fdi_lib.core.routing``. Bounded everywhere: rows that wait, units in
flight, actors; when nothing more fits it stops pulling. Knows no images, manifests or ledgers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from fdi_lib.core.decision import parse_route
from fdi_lib.core.routing import Backlog, Unit, Worker, after_loss, choose
from fdi_lib.errors import AdapterLoadError, FDIError
from fdi_lib.records import Reason
from jobs.pulled import Pulled, cause

log = logging.getLogger(__name__)
_POLL_S = 0.1
_COPIES = 2  # units without a route in flight: they are bound by storage, not by CPU
_DIED = "the process that restored it died every time; look into the image, or give pools.restore more memory_gib"


@dataclass(frozen=True)
class Workforce:
    """Who does the work. ``ActorHandle`` needs ``ready() -> node id`` and ``work(rows, attempt) -> counts``.

    Args:
        hire: starts an actor and returns its handle at once.
        finish: sends a unit that needs no model, as a plain task; returns its reference.
        give_up: turns the rows of a unit that can't be done, with reason and detail, into rows that need no model.
        note_loss: writes down that a worker died with a unit, as its images and its tries.
        least: actors from the start.
        most: actors at most.
        capacity: adapters that one keeps loaded.
        wait_s: how long to wait for the first actor.
    """

    hire: Callable[[], Any]
    finish: Callable[[pa.Table, int], ray.ObjectRef]
    give_up: Callable[[pa.Table, Reason, str], pa.Table]
    note_loss: Callable[[list[str], int], None]
    least: int
    most: int
    capacity: int
    wait_s: float


class Dispatcher:
    """Routes a stream of decision rows to a workforce; use as ``for counts in dispatcher.run(tables)``."""

    def __init__(self, workforce: Workforce, backlog: Backlog, attempt: int) -> None:
        """Prepare; nothing starts yet. ``attempt`` is the number of this attempt in the ledger."""
        self.workforce, self.backlog, self.attempt = workforce, backlog, attempt
        self.stats = {"units": 0, "lost": 0, "actors": 0, "spread": 0}
        self.stopping = False
        self._stop_by = 0.0
        self._changed: list[pa.Table] = []
        self._broken: dict[str, str] = {}  # adapters that two workers could not load, and why
        self._nodes: dict[int, str] = {}
        self._actors: dict[int, Any] = {}
        self._starting: dict[ray.ObjectRef, int] = {}
        self._workers: dict[int, Worker] = {}
        self._flights: dict[ray.ObjectRef, tuple[Unit, int | None]] = {}  # in the order they were sent

    def stop(self, grace_s: float) -> None:
        """Send nothing more; wait for what is in flight at most so long. From any thread, or a signal's handler."""
        self._stop_by, self.stopping = time.monotonic() + grace_s, True

    def take_changed(self) -> pa.Table | None:
        """Hand over the rows whose sources had other bytes than they were decided on; None for none."""
        changed, self._changed = self._changed, []
        return pa.concat_tables(changed) if changed else None

    def run(self, tables: Iterator[pa.Table]) -> Generator[dict[str, Any], None, None]:
        """Yield the counts of every finished unit. Closing the generator ends all actors.

        Raises:
            FDIError: what a worker raised, as it raised it; other exceptions likewise.
        """
        stream = Pulled(tables)
        self._deadline = time.monotonic() + self.workforce.wait_s
        try:
            for _ in range(self.workforce.least):
                self._hire()
            while not self._is_over(stream):
                if not self.stopping:
                    self._take_in(stream)
                    self._send()
                yield from self._collect()
        finally:
            stream.close()
            for actor in self._actors.values():
                ray.kill(actor)
            for reference, (_, number) in self._flights.items():
                if number is None:
                    ray.cancel(reference, force=True)
            for group in (self._actors, self._starting, self._workers, self._flights, self._nodes):
                group.clear()

    def _is_over(self, stream: Pulled) -> bool:
        if self.stopping:
            return not self._flights or time.monotonic() > self._stop_by
        return stream.ended and not self.backlog.images and not self._flights

    def _take_in(self, stream: Pulled) -> None:
        while not self.backlog.full and (rows := stream.get(0 if self._flights else _POLL_S)) is not None:
            self.backlog.add(rows, time.monotonic())
        self.backlog.flush(time.monotonic(), closed=stream.ended)

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
            worker, unit = chosen.worker, self.backlog.take(chosen.position)
            if broken := [name for name in parse_route(unit.route) if name in self._broken]:
                self._give_up(unit, Reason.ADAPTER_FAILED, self._broken[broken[0]])
                continue
            loads = worker.assign(unit)
            self.stats["spread"] += loads if chosen.spreads else 0
            reference = self._actors[worker.key].work.remote(unit.rows, self.attempt)
            self._flights[reference] = (unit, worker.key)
        if any(unit.route for unit in self.backlog.ready):
            busy = all(worker.in_flight for worker in self._workers.values())
            if busy and not self._starting and len(self._actors) < self.workforce.most:
                self._hire()
            if not self._flights and time.monotonic() > self._deadline:
                waited = f"{self.workforce.wait_s:.0f} s"
                raise FDIError(f"no restore actor could take work for {waited}; run again when nodes are there")

    def _collect(self) -> Iterator[dict[str, Any]]:
        waiting = [*self._flights, *self._starting]
        done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
        if waiting and not done:
            done, _ = ray.wait(waiting, num_returns=1, timeout=_POLL_S)
        if done or self._flights:
            self._deadline = time.monotonic() + self.workforce.wait_s
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
            self._nodes[number] = ray.get(reference)
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
        unit, number = self._flights[reference]
        try:
            counts: dict[str, Any] = ray.get(reference)
        except RayTaskError as error:
            raised = cause(error)
            if not isinstance(raised, AdapterLoadError) or number is None:
                raise raised from None
            self._refused(number, reference, raised)
            return None
        except RayError as error:
            self._lost(number, reference, error)
            return None
        del self._flights[reference]
        if number is not None:
            self._workers[number].came_back()
        self.stats["units"] += 1
        if changed := counts.pop("changed", None):
            self._changed.append(unit.rows.filter(pc.is_in(unit.rows["image_id"], pa.array(changed))))
        return counts

    def _lost(self, number: int | None, reference: ray.ObjectRef, error: RayError) -> None:
        """Send again what a dead worker had. Several units are all suspected, and go alone from then on.

        Where the whole node is known to be gone, as after a spot machine's notice, nobody is suspected.
        """
        why = str(error).partition("\n")[0]
        units = self._taken_back(number, reference)
        log.warning("a worker died with %d units in flight; they are sent again: %s", len(units), why)
        self.stats["lost"] += len(units)
        if number is not None and self._nodes[number] not in _nodes_alive():
            self.backlog.put_back(units)
        else:
            for unit in reversed(units):  # the oldest goes first again
                self._suspect(unit, alone=len(units) == 1)
        if number is not None:
            self._replace(number)

    def _suspect(self, unit: Unit, alone: bool) -> None:
        self.workforce.note_loss(unit.rows["image_id"].to_pylist(), unit.tries)
        again = after_loss(unit, alone)
        if not again and not unit.route:
            name = unit.rows["image_id"][0].as_py()
            raise FDIError(f"tasks that copy {name} died {unit.tries} times; give the nodes more memory, and run again")
        if not again:
            self._give_up(unit, Reason.WORKER_DIED, _DIED)
        self.backlog.put_back(again)

    def _refused(self, number: int, reference: ray.ObjectRef, error: AdapterLoadError) -> None:
        """Send a unit whose adapter did not load to another worker; after the second one, give up that adapter."""
        unit, _ = self._flights.pop(reference)
        worker = self._workers[number]
        worker.came_back()
        worker.adapters = [name for name in worker.adapters if name != error.adapter]
        if unit.avoid:
            self._broken[error.adapter] = str(error)
            self._give_up(unit, Reason.ADAPTER_FAILED, str(error))
            return
        log.warning("tried on another worker: %s", error)
        unit = replace(unit, avoid=unit.avoid | {number})
        alone = len(self._workers) == 1 and not self._starting
        if alone and len(self._actors) < self.workforce.most:
            self._hire()
        elif alone:  # a fresh worker counts as another one
            others = self._taken_back(number, None)
            ray.kill(self._actors[number])
            self._replace(number)
            self.backlog.put_back(others)
        self.backlog.put_back([unit])

    def _taken_back(self, number: int | None, reference: ray.ObjectRef | None) -> list[Unit]:
        """Take back what a worker (or, without one, a task) has in flight, oldest first."""
        theirs = [
            ref
            for ref, (_, worker) in self._flights.items()
            if ref == reference or (number is not None and worker == number)
        ]
        return [self._flights.pop(ref)[0] for ref in theirs]

    def _replace(self, number: int) -> None:
        del self._workers[number], self._actors[number], self._nodes[number]
        self._hire()

    def _give_up(self, unit: Unit, reason: Reason, detail: str) -> None:
        log.error("given up (%s): %s and %d more", reason, unit.rows["image_id"][0], unit.rows.num_rows - 1)
        self.backlog.put_back([Unit("", self.workforce.give_up(unit.rows, reason, detail))])


def _nodes_alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _first_without_route(backlog: Backlog) -> int | None:
    return next((index for index, unit in enumerate(backlog.ready) if not unit.route), None)
