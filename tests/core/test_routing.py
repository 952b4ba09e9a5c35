"""Units are bounded, nothing waits for ever, and adapters stay where they are."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdi_lib.core.routing import PATIENCE, TRIES, Backlog, Unit, Worker, after_loss, choose


def rows(routes: list[str], side: int = 100) -> pa.Table:
    count = len(routes)
    return pa.table(
        {
            "image_id": [f"{i:06d}" for i in range(count)],
            "route": routes,
            "width": pa.array([side] * count, pa.int32()),
            "height": pa.array([side] * count, pa.int32()),
        }
    )


def take_all(backlog: Backlog) -> list[Unit]:
    return [backlog.take(0) for _ in range(len(backlog.ready))]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from(["", "noise", "haze>noise"]), min_size=1, max_size=40), max_size=8))
def test_every_row_is_in_exactly_one_bounded_unit_of_its_route(batches: list[list[str]]) -> None:
    backlog = Backlog(unit_images=7)
    for number, routes in enumerate(batches):
        backlog.add(rows(routes).append_column("batch", pa.array([number] * len(routes))), now=0.0)
    backlog.flush(0.0, closed=True)
    units = take_all(backlog)
    assert all(0 < unit.rows.num_rows <= 7 for unit in units)
    assert all(set(unit.rows["route"].to_pylist()) == {unit.route} for unit in units)
    seen = sorted((row["batch"], row["image_id"]) for unit in units for row in unit.rows.to_pylist())
    assert seen == [(number, f"{i:06d}") for number, routes in enumerate(batches) for i in range(len(routes))]
    assert backlog.images == 0


def test_a_unit_is_bounded_in_pixels_and_a_huge_image_travels_alone() -> None:
    backlog = Backlog(unit_images=10, unit_pixels=25_000)
    backlog.add(rows(["noise"] * 5), now=0.0)
    backlog.add(rows(["haze"], side=1000), now=0.0)
    backlog.flush(0.0, closed=True)
    assert sorted(unit.rows.num_rows for unit in take_all(backlog)) == [1, 1, 2, 2]


def test_a_rare_route_is_flushed_by_age_and_when_the_backlog_is_full() -> None:
    backlog = Backlog(unit_images=4, limit=3, max_age_s=5.0)
    backlog.add(rows(["rain"]), now=0.0)
    backlog.flush(4.9)
    assert not backlog.ready
    backlog.flush(5.0)
    assert [unit.route for unit in take_all(backlog)] == ["rain"]
    backlog.add(rows(["a", "b", "c"]), now=6.0)
    assert backlog.full
    backlog.flush(6.0)
    assert [unit.route for unit in take_all(backlog)] == ["a"]


def test_units_go_where_the_adapters_are_and_a_hot_route_spreads_to_idle_workers() -> None:
    backlog = Backlog(unit_images=1)
    backlog.add(rows(["noise"] * 6), now=0.0)
    workers = [Worker(0, capacity=2, adapters=["haze"]), Worker(1, capacity=2, adapters=["noise"])]
    sent = []
    while (chosen := choose(backlog, workers)) is not None:
        worker = chosen.worker
        worker.assign(backlog.take(chosen.position))
        sent.append((worker.key, chosen.spreads))
    assert (
        sent == [(1, False)] * 3 + [(0, True)] + [(0, False)] * 2
    )  # the holder until it is busy, then the idle one, which now holds it too
    assert workers[0].adapters == ["haze", "noise"]


def test_the_least_recently_used_adapter_goes_first() -> None:
    worker = Worker(0, capacity=2)
    assert [worker.assign(Unit(route, rows([route]))) for route in ("a", "b", "a", "c", "a>b")] == [1, 1, 0, 1, 1]
    assert worker.adapters == ["a", "b"]


def test_a_cold_route_is_overtaken_only_so_often() -> None:
    backlog = Backlog(unit_images=1)
    worker = Worker(0, capacity=1, adapters=["hot"])
    backlog.add(rows(["cold"]), now=0.0)
    sent = []
    while "cold" not in sent:
        backlog.add(rows(["hot"]), now=0.0)
        chosen = choose(backlog, [worker])
        assert chosen is not None
        unit = backlog.take(chosen.position)
        worker.assign(unit)
        worker.came_back()
        sent.append(unit.route)
    assert PATIENCE < len(sent) <= PATIENCE + 4


def test_sixteen_routes_that_fit_are_loaded_once_each() -> None:
    backlog = Backlog(unit_images=2, limit=10**6)
    for _ in range(20):
        backlog.add(rows([f"r{i}" for i in range(16)] * 2), now=0.0)
    workers = [Worker(key, capacity=8) for key in range(2)]
    loads = 0
    while (chosen := choose(backlog, workers)) is not None:
        loads += chosen.worker.assign(backlog.take(chosen.position))
        for worker in workers:
            worker.in_flight = 0
    assert not backlog.ready
    assert loads <= 24


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 31), min_size=1, max_size=2), st.integers(1, 3))
def test_whoever_kills_workers_ends_alone_and_no_companion_is_given_up(guilty: set[int], limit: int) -> None:
    backlog = Backlog(unit_images=8)
    backlog.add(rows(["noise"] * 32), now=0.0)
    ids, given_up, alive = {f"{i:06d}" for i in guilty}, [], []
    worker = Worker(0, capacity=1, limit=limit)
    flights: list[Unit] = []
    deaths = 0
    while backlog.ready or flights:
        while (chosen := choose(backlog, [worker])) is not None:
            unit = backlog.take(chosen.position)
            worker.assign(unit)
            flights.append(unit)
        if any(ids & set(unit.rows["image_id"].to_pylist()) for unit in flights):  # any of them, not the oldest alone
            deaths += 1
            for unit in reversed(flights):
                again = after_loss(unit, alone=len(flights) == 1)
                given_up += [] if again else unit.rows["image_id"].to_pylist()
                backlog.put_back(again)
            flights, worker = [], Worker(0, capacity=1, limit=limit)
        else:
            alive += flights.pop(0).rows["image_id"].to_pylist()
            worker.came_back()
    assert sorted(given_up) == sorted(ids) and len(alive) == 32 - len(ids)
    assert deaths <= 16


def test_images_that_workers_died_with_before_go_alone_and_keep_their_count() -> None:
    backlog = Backlog(suspects={"000001": 1, "000003": 9})
    backlog.add(rows(["noise"] * 5), now=0.0)
    backlog.flush(0.0, closed=True)
    units = take_all(backlog)
    assert [unit.rows["image_id"].to_pylist() for unit in units] == [
        ["000001"],
        ["000003"],
        ["000000", "000002", "000004"],
    ]
    assert [unit.tries for unit in units] == [2, TRIES, 1] and backlog.images == 0
    assert after_loss(units[1], alone=True) == [] and [unit.tries for unit in after_loss(units[0], alone=True)] == [3]


def test_a_unit_is_not_sent_to_a_worker_that_could_not_load_its_adapters() -> None:
    backlog = Backlog()
    backlog.put_back([Unit("a", rows(["a"]), avoid=frozenset({0}))])
    first, second = Worker(0, capacity=4, adapters=["a"]), Worker(1, capacity=4)
    assert choose(backlog, [first]) is None
    assert choose(backlog, [first, second]) == (0, second, True)
    backlog.sent = 1000  # not even when it was overtaken too often
    assert choose(backlog, [first]) is None and choose(backlog, [first, second]) == (0, second, True)


def test_a_suspect_has_no_company() -> None:
    backlog, worker = Backlog(), Worker(0, capacity=4)
    backlog.put_back([Unit("a", rows(["a"]), tries=2), Unit("a", rows(["a"]))])
    worker.assign(Unit("a", rows(["a"])))
    index, *_ = choose(backlog, [worker]) or (None,)
    assert index == 1  # not the suspect: the worker is busy
    worker.came_back()
    index, *_ = choose(backlog, [worker]) or (None,)
    assert index == 0
    worker.assign(backlog.take(0))
    assert choose(backlog, [worker]) is None
    worker.came_back()
    assert choose(backlog, [worker]) == (0, worker, False)


@pytest.mark.parametrize("routes", [16, 64])
def test_adapters_that_do_not_fit_are_loaded_for_many_units_at_a_time(routes: int) -> None:
    """As the dispatcher does it: the backlog is filled to its limit, and units come back one by one."""
    backlog = Backlog()
    workers = [Worker(key, capacity=2) for key in range(4)]
    batches = [rows([f"r{n % routes:02d}" for n in range(start, start + 256)]) for start in range(0, 81_920, 256)]
    loads = units = 0
    flights: list[Worker] = []
    while batches or backlog.images:
        while batches and not backlog.full:
            backlog.add(batches.pop(), now=0.0)
        backlog.flush(0.0, closed=not batches)
        while (chosen := choose(backlog, workers)) is not None:
            loads += chosen.worker.assign(backlog.take(chosen.position))
            units += 1
            flights.append(chosen.worker)
        flights.pop(0).came_back()
    assert units == 81_920 // 32 and loads <= units / 10


def test_a_suspect_that_waited_too_long_gets_a_worker_of_its_own() -> None:
    backlog, worker = Backlog(), Worker(0, capacity=4)
    backlog.put_back([Unit("a", rows(["a"]), tries=2)])
    backlog.put_back([Unit("b", rows(["b"])) for _ in range(200)])
    sent: list[str] = []
    while "a" not in sent:
        while (chosen := choose(backlog, [worker])) is not None:
            unit = backlog.take(chosen.position)
            worker.assign(unit)
            sent.append(unit.route)
        worker.came_back()
    assert len(sent) < 60
