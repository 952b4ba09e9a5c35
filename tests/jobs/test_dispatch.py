"""The router's shell with workers that die or never come: nothing waits for ever, and nothing ends too early."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from fdi_lib.core.routing import IN_FLIGHT, Backlog
from fdi_lib.errors import FDIError
from jobs.dispatch import Dispatcher, Workforce

pytestmark = pytest.mark.usefixtures("ray_local")


class Actor:
    def __init__(self, marker: Path | None = None) -> None:
        self._marker = marker

    def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def work(self, rows: pa.Table, attempt: int) -> dict[str, Any]:
        if self._marker and not self._marker.exists():
            time.sleep(1.5)
            self._marker.touch()
            os._exit(1)
        return {"images": rows.num_rows, "seconds": {}}


def die(rows: pa.Table, attempt: int) -> dict[str, Any]:
    os._exit(1)


def rows(routes: list[str]) -> pa.Table:
    side = pa.array([100] * len(routes), pa.int32())
    ids = [f"{number}" for number in range(len(routes))]
    return pa.table({"image_id": ids, "route": routes, "width": side, "height": side})


def workforce(**changes: Any) -> Workforce:
    actor = ray.remote(Actor).options(num_cpus=0, max_concurrency=IN_FLIGHT + 1)
    settings: dict[str, Any] = {
        "hire": actor.remote,
        "finish": lambda rows, attempt: ray.put({"images": rows.num_rows, "seconds": {}}),
        "give_up": lambda rows, reason, detail: rows.set_column(1, "route", pa.array([""] * rows.num_rows)),
        "note_loss": lambda ids, losses: None,
        "least": 1, "most": 1, "capacity": 8, "wait_s": 30.0,
    }  # fmt: skip
    return Workforce(**settings | changes)


def images(force: Workforce, *tables: pa.Table) -> int:
    return sum(counts["images"] for counts in Dispatcher(force, Backlog(), 1).run(iter(tables)))


def test_a_worker_that_dies_after_a_long_while_is_followed_by_another(tmp_path: Path) -> None:
    actor = ray.remote(Actor).options(num_cpus=0, max_concurrency=IN_FLIGHT + 1)
    force = workforce(hire=lambda: actor.remote(tmp_path / "died"), wait_s=1.0 + 4.0)
    assert images(force, rows(["a"] * 40)) == 40 and (tmp_path / "died").exists()


def test_work_that_nobody_comes_for_ends_the_job() -> None:
    never = ray.remote(Actor).options(num_cpus=0, resources={"what no node has": 1})
    with pytest.raises(FDIError, match="no restore actor could take work for 1 s; run again"):
        images(workforce(hire=never.remote, wait_s=1.0), rows(["a"]))


def test_tasks_that_always_die_end_the_job() -> None:
    task = ray.remote(die).options(num_cpus=0, max_retries=0)
    with pytest.raises(FDIError, match="tasks that copy 0 died 3 times"):
        images(workforce(finish=task.remote), rows([""]))


def test_when_told_to_stop_it_waits_for_what_is_in_flight_and_sends_nothing_more() -> None:
    dispatcher = Dispatcher(workforce(), Backlog(unit_images=1), 1)
    seen = 0
    for counts in dispatcher.run(iter([rows(["a"] * 50)])):
        seen += counts["images"]
        dispatcher.stop(20.0)
    assert 1 <= seen <= 1 + IN_FLIGHT and dispatcher.stopping
