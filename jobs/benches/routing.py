"""``fdi bench``, section ``routing``: what bringing an adapter's images together saves.

The job's router and its actors, decision rows in random order, and actors that only sleep: a fixed time an image, and
one for each adapter that is not resident. Does NOT know images.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from fdi_lib.core.routing import IN_FLIGHT, Backlog
from jobs.benches.fake import zipf_shares
from jobs.capacity import Amount
from jobs.dispatch import Dispatcher, Workforce
from jobs.pool import joined
from jobs.workers import given_up

log = logging.getLogger(__name__)
ROUTES, MIXES = (1, 4, 16, 64), {"uniform": 0.0, "Zipf": 1.0}
WAYS = {"routed": 8, "unrouted": 8, "all resident": 64}  # adapters that an actor keeps
_ACTORS = 4
_UNITS_A_ROUTE, _LEAST_IMAGES = 64, 4096  # long enough that the first loads don't decide
_UNROUTED_IMAGES = 1024  # each unit loads most of the adapters: the rest would show nothing new
_IMAGE_S, _LOAD_S = 0.002, 0.25
_BATCH = 32  # rows that arrive together, as from the classifier


def measure() -> list[dict[str, Any]]:
    """Route the same images in each way.

    Returns:
        For each number of routes, mix and way: ``units``, ``loads``, ``spread`` (those that the router chose because
        all holders of a route were busy), ``idle`` (share of the actors' time in which they restored nothing),
        ``images_per_s``.
    """
    table = []
    with joined([(Amount(cpus=1.0), 1)]):
        for routes in ROUTES:
            for mix, exponent in MIXES.items():
                drawn = _drawn(routes, exponent)
                for way, capacity in WAYS.items():
                    log.info("%d routes, %s, %s", routes, mix, way)
                    some = drawn[:_UNROUTED_IMAGES] if way == "unrouted" else drawn
                    found = _route(some, way != "unrouted", capacity)
                    table.append({"routes": routes, "mix": mix, "way": way} | found)
    return table


def _drawn(routes: int, exponent: float) -> list[str]:
    """The adapter of each image."""
    images = max(_LEAST_IMAGES, routes * _UNITS_A_ROUTE * _BATCH)
    drawn = np.random.default_rng(routes).choice(routes, images, p=zipf_shares(routes, exponent))
    return [f"adapter{number:02d}" for number in drawn]


def _route(drawn: list[str], by_route: bool, capacity: int) -> dict[str, Any]:
    """Send all images through the router; without ``by_route`` it doesn't know what they need."""
    workforce = Workforce(
        hire=lambda: ray.remote(_Actor).options(num_cpus=0, max_concurrency=IN_FLIGHT + 1).remote(capacity),
        finish=lambda rows, attempt: ray.put({}),
        give_up=given_up,
        note_loss=lambda image_ids, losses: None,
        least=_ACTORS,
        most=_ACTORS,
        capacity=capacity,
        wait_s=60.0,
    )
    units, loads, busy, first, last = 0, 0, 0.0, float("inf"), 0.0
    dispatcher = Dispatcher(workforce, Backlog(), 1)
    with closing(dispatcher.run(_tables(drawn, by_route))) as finished:
        for counts in finished:
            units, loads, busy = units + 1, loads + counts["loads"], busy + counts["busy_s"]
            first, last = min(first, counts["began"]), max(last, counts["ended"])
    wall = last - first
    idle, rate = 1 - busy / (wall * _ACTORS), len(drawn) / wall
    spread = dispatcher.stats["spread"]
    return {
        "units": units, "loads": loads, "spread": spread, "idle": round(idle, 3), "images_per_s": round(rate, 1),
    }  # fmt: skip


def _tables(drawn: list[str], by_route: bool) -> Iterator[pa.Table]:
    for start in range(0, len(drawn), _BATCH):
        names = drawn[start : start + _BATCH]
        side = pa.array([1000] * len(names), pa.int32())
        ids = [f"{start + number:06d}" for number in range(len(names))]
        routes = names if by_route else ["any"] * len(names)
        yield pa.table({"image_id": ids, "route": routes, "composition": names, "width": side, "height": side})


class _Actor:
    """Sleeps in place of a model; inside a unit it, too, takes the images of one adapter together."""

    def __init__(self, capacity: int) -> None:
        self._one_at_a_time = threading.Lock()
        self._load = lru_cache(capacity)(_load)

    def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def work(self, rows: pa.Table, attempt: int) -> dict[str, Any]:
        with self._one_at_a_time:
            began, before = time.time(), self._load.cache_info().misses
            names = rows["composition"].to_pylist()
            for name in sorted(set(names)):
                self._load(name)
            worked = _IMAGE_S * len(names)
            time.sleep(worked)
            loads = self._load.cache_info().misses - before
            return {"loads": loads, "busy_s": worked, "began": began, "ended": time.time(), "seconds": {}}


def _load(name: str) -> None:
    time.sleep(_LOAD_S)
