"""Which images travel together, and which worker gets them: pure decisions, made on tiny rows.

Rows are grouped by route into bounded units; a unit goes to a worker that already holds the route's adapters, a hot
route spreads over idle workers, and no route waits for ever. Does NOT know Ray, storage or models: a worker is a number
and a guess of what it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fdi_lib.core.decision import parse_route

TRIES = 3  # times that a unit may take its worker down before its images are given up
PATIENCE = 8  # units per worker that may be sent before one that is due
IN_FLIGHT = 3  # units of one worker: one is restored while the next is read and the last is written


@dataclass(frozen=True)
class Unit:
    """Decision rows of one route that are worked on, and committed, together.

    Args:
        route: names of the adapters; empty when no model is needed.
        rows: ``records.DECISION`` rows.
        tries: how often it was sent, this time included.
        due: number of sent units from which on it goes before those that are not due.
        avoid: workers that could not load its adapters.
    """

    route: str
    rows: pa.Table
    tries: int = 1
    due: int = 0
    avoid: frozenset[int] = frozenset()


@dataclass
class Worker:
    """What the router believes of one worker.

    Args:
        key: its number.
        capacity: adapters that it keeps loaded.
        limit: units that it may have in flight.
        adapters: what it holds, least recently used first.
        in_flight: units that were sent and have not come back.
        alone: a suspect is in flight, which must have no company: if the worker dies, it is guilty.
    """

    key: int
    capacity: int
    limit: int = IN_FLIGHT
    adapters: list[str] = field(default_factory=list)
    in_flight: int = 0
    alone: bool = False

    @property
    def free(self) -> bool:
        """Whether another unit may be sent."""
        return self.in_flight < self.limit and not self.alone

    def may_take(self, unit: Unit) -> bool:
        """Whether this unit may be sent."""
        return self.free and self.key not in unit.avoid and (unit.tries == 1 or self.in_flight == 0)

    def missing(self, route: str) -> int:
        """Adapters of the route that would have to be loaded."""
        return len(set(parse_route(route)) - set(self.adapters))

    def assign(self, unit: Unit) -> int:
        """Note a unit that was sent; return how many adapters it makes the worker load."""
        loads = self.missing(unit.route)
        names = parse_route(unit.route)
        kept = [name for name in self.adapters if name not in names]
        self.adapters = (kept + list(dict.fromkeys(names)))[-max(self.capacity, len(names)) :]
        self.in_flight += 1
        self.alone = unit.tries > 1
        return loads

    def came_back(self) -> None:
        """Note that a unit is no longer in flight."""
        self.in_flight -= 1
        self.alone = False


class Backlog:
    """Rows that wait: grouped by route, cut into units, bounded.

    Args:
        unit_images: most images of a unit.
        unit_pixels: most pixels of a unit (one image may exceed it alone).
        limit: images that may wait; the owner stops pulling when ``full``.
        max_age_s: longest time that an incomplete unit waits for more images of its route.
        suspects: images that workers died with before this run, and how many: each is a unit of its own.
    """

    def __init__(
        self,
        unit_images: int = 32,
        unit_pixels: int = 64_000_000,
        limit: int = 32_768,
        max_age_s: float = 5.0,
        suspects: Mapping[str, int] | None = None,
    ) -> None:
        self.unit_images, self.unit_pixels, self.limit, self.max_age_s = unit_images, unit_pixels, limit, max_age_s
        self._suspects = dict(suspects or {})
        self.ready: deque[Unit] = deque()
        self.images = 0
        self.sent = 0
        self._partial: dict[str, tuple[pa.Table, float]] = {}  # route: rows, time of the oldest; oldest route first

    @property
    def full(self) -> bool:
        """Whether no more rows should be added now."""
        return self.images >= self.limit

    def add(self, rows: pa.Table, now: float) -> None:
        """Take in decision rows of any routes; units that become complete are ready at once."""
        self.images += rows.num_rows
        rows = self._without_suspects(rows)
        for route in pc.unique(rows["route"]).to_pylist():
            added = rows.filter(pc.equal(rows["route"], route))
            waiting, since = self._partial.pop(route, (None, now))
            added = added if waiting is None else pa.concat_tables([waiting, added])
            while (cut := self._cut(added)) < added.num_rows or cut == self.unit_images:
                self._make_ready(route, added.slice(0, cut))
                added, since = added.slice(cut), now
                if added.num_rows == 0:
                    break
            if added.num_rows:
                self._partial[route] = (added.combine_chunks(), since)

    def flush(self, now: float, *, closed: bool = False) -> None:
        """Make incomplete units ready: those too old; all at the stream's end; the oldest when the backlog is full."""
        for route, (rows, since) in sorted(self._partial.items(), key=lambda item: item[1][1]):
            if closed or now - since >= self.max_age_s or (self.full and not self.ready):
                del self._partial[route]
                self._make_ready(route, rows)

    def take(self, index: int) -> Unit:
        """Remove a ready unit, to send it."""
        unit = self.ready[index]
        del self.ready[index]
        self.images -= unit.rows.num_rows
        self.sent += 1
        return unit

    def put_back(self, units: Sequence[Unit]) -> None:
        """Return units whose worker went away; they go first."""
        self.images += sum(unit.rows.num_rows for unit in units)
        self.ready.extendleft(reversed(units))

    def _without_suspects(self, rows: pa.Table) -> pa.Table:
        """Make units of the suspects among the rows; return the others."""
        if not self._suspects or not rows.num_rows:
            return rows
        suspect = pc.is_in(rows["image_id"], pa.array(list(self._suspects)))
        for row in (alone := rows.filter(suspect)).to_batches(max_chunksize=1):
            tries = min(self._suspects[row["image_id"][0].as_py()] + 1, TRIES)
            self._make_ready(row["route"][0].as_py(), pa.Table.from_batches([row]), tries)
        return rows.filter(pc.invert(suspect)) if alone.num_rows else rows

    def _cut(self, rows: pa.Table) -> int:
        """How many of the first rows make the largest allowed unit."""
        pixels = np.cumsum(_pixels(rows))
        return max(1, min(self.unit_images, int(np.searchsorted(pixels, self.unit_pixels, side="right"))))

    def _make_ready(self, route: str, rows: pa.Table, tries: int = 1) -> None:
        # In order of arrival it would be sent after those that are ready; a longer wait buys fewer loads.
        self.ready.append(Unit(route, rows, tries, due=self.sent + 2 * len(self.ready)))


class Choice(NamedTuple):
    """What to send next.

    Args:
        position: of the unit in ``backlog.ready``.
        worker: who gets it.
        spreads: another worker holds the route's adapters already, but is busy.
    """

    position: int
    worker: Worker
    spreads: bool = False


def choose(backlog: Backlog, workers: Sequence[Worker]) -> Choice | None:
    """Pick the next ready unit that needs a model, and its worker.

    In this order: a unit whose adapters a free worker holds; a unit that nobody holds, where it evicts least; a unit
    whose holders are all busy, to an idle worker (the route spreads). Where units are overdue, only they are looked
    at; an overdue suspect stops all sending until a worker has nothing else in flight.

    Returns:
        None when nothing should be sent now.
    """
    free = [worker for worker in workers if worker.free]
    if not free:
        return None
    kinds: dict[tuple[str, int, frozenset[int]], int] = {}  # the unit of each kind that waits longest
    for index, unit in enumerate(backlog.ready):
        if unit.route:
            kinds.setdefault((unit.route, min(unit.tries, 2), unit.avoid), index)
    waiting: list[tuple[str, int, list[Worker]]] = []
    overdue: list[tuple[str, int, list[Worker]]] = []
    for (route, tries, avoid), index in sorted(kinds.items(), key=lambda kind: -kind[0][1]):  # suspects, by waiting
        unit = backlog.ready[index]
        takers = [worker for worker in free if worker.may_take(unit)] if tries > 1 or avoid else free
        is_late = backlog.sent > unit.due + PATIENCE * len(workers)
        if is_late and tries > 1 and not takers:
            return None
        if takers:
            (overdue if is_late else waiting).append((route, index, takers))
    waiting = overdue or waiting
    holders = _holders([route for route, *_ in waiting], workers)
    for route, index, takers in waiting:
        if able := [worker for worker in takers if worker.key in holders[route]]:
            return Choice(index, min(able, key=lambda worker: worker.in_flight))
    for route, index, takers in waiting:
        if not holders[route]:
            return Choice(index, _cheapest(route, takers))
    for route, index, takers in waiting:
        if idle := [worker for worker in takers if worker.in_flight == 0]:
            return Choice(index, _cheapest(route, idle), spreads=True)
    return None


def _holders(routes: Iterable[str], workers: Sequence[Worker]) -> dict[str, set[int]]:
    """Numbers of the workers that hold all adapters of each route: one look at hundreds of workers for all of them."""
    holding: dict[str, set[int]] = {}
    for worker in workers:
        for name in worker.adapters:
            holding.setdefault(name, set()).add(worker.key)
    return {route: set.intersection(*(holding.get(name, set()) for name in parse_route(route))) for route in routes}


def _cheapest(route: str, workers: Sequence[Worker]) -> Worker:
    """The worker with the least to do, then with the fewest evictions, then with the fewest loads."""

    def cost(worker: Worker) -> tuple[int, int, int]:
        missing = worker.missing(route)
        return worker.in_flight, max(0, len(worker.adapters) + missing - worker.capacity), missing

    return min(workers, key=cost)


def after_loss(unit: Unit, alone: bool) -> list[Unit]:
    """What to send again after a worker died with a unit: the unit, its halves, or nothing.

    Args:
        unit: what was in flight.
        alone: it was the only one, so it is guilty; otherwise it is suspected, and goes alone from now on.

    Returns:
        Units with more tries. A guilty suspect is halved, so that a guilty image ends up alone; alone it has
        ``TRIES`` tries in all. An empty list means that this one image is given up.
    """
    count = unit.rows.num_rows
    if unit.tries == 1 or not alone:
        return [replace(unit, tries=max(2, unit.tries))]
    if count == 1:
        return [replace(unit, tries=unit.tries + 1)] if unit.tries < TRIES else []
    half = count // 2
    return [replace(unit, rows=rows, tries=2) for rows in (unit.rows.slice(0, half), unit.rows.slice(half))]


def _pixels(rows: pa.Table) -> np.ndarray:
    """Pixels of each row, int64; 0 where the size is unknown."""
    width, height = (pc.fill_null(rows[name], 0).to_numpy().astype(np.int64) for name in ("width", "height"))
    return np.asarray(width * height)
