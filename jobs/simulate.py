"""A model of the job on clusters that nobody here has: ``python -m jobs.simulate [--images N] [--gpus 8 64 512]``.

A discrete-event simulation (SimPy) around the job's own router: ``Backlog`` and ``choose`` decide, as in a real job;
reading, classifying, restoring, writing and the driver's own work only take time. Prints how busy each part was, so
that one sees what saturates first. Its times come from the command line; docs/simulation.md tells the measured ones.
Does NOT touch Ray, images or models.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import simpy
from rich.console import Console
from rich.table import Table

from fdi_lib.core.routing import Backlog, Unit, Worker, choose
from jobs.benches.fake import zipf_shares

Steps = Generator[simpy.Event, Any, None]
_ARCHIVE = 10_000_000  # images that hours are given for
_BATCH = 256  # rows that reach the router together
_SIDE_PX = 2000  # of an image: units hold 16 of them


@dataclass(frozen=True)
class Times:
    """Seconds and bytes of one image, where nothing else is said.

    Args:
        restore_s: on a GPU, all steps and tiles.
        classify_s: on a GPU; comes out of the same GPUs.
        driver_s: of the driver, for one image on its way through listing, router and ledger.
        load_s: reading one adapter that is not resident, and putting it on the GPU.
        read_bytes: of the source; each is read twice.
        write_bytes: of the outputs.
    """

    restore_s: float = 1.0
    classify_s: float = 0.02
    driver_s: float = 0.0004
    load_s: float = 0.5
    read_bytes: float = 5e6
    write_bytes: float = 5e6


@dataclass(frozen=True)
class Scenario:
    """One cluster and what is wrong with it.

    Args:
        gpus: restore actors; each has a GPU.
        images: all of them.
        routes: adapters; their frequencies follow Zipf's law.
        zipf: its exponent; 0 makes all equally frequent.
        resident: adapters that an actor keeps.
        storage_bytes_s: of the store, reading and writing together.
        stragglers: share of the actors that take twice the time.
        spot_hours: mean life of an actor; 0 for ever.
        boot_s: until a lost one is followed by another.
    """

    name: str
    gpus: int
    images: int
    routes: int = 8
    zipf: float = 1.0
    resident: int = 8
    storage_bytes_s: float = 25e9
    stragglers: float = 0.0
    spot_hours: float = 0.0
    boot_s: float = 300.0
    times: Times = field(default_factory=Times)


def scenarios(gpus: int, images: int) -> list[Scenario]:
    """What is asked of each size of cluster."""
    calm = Scenario("calm", gpus, images)
    return [
        calm,
        replace(calm, name="5 % stragglers", stragglers=0.05),
        replace(calm, name="64 skewed routes, 8 resident", routes=64, zipf=1.0),
        replace(calm, name="64 skewed routes, 32 resident", routes=64, zipf=1.0, resident=32),
        replace(calm, name="spot machines of 2 h", spot_hours=2.0),
        replace(calm, name="storage of 1 GB/s", storage_bytes_s=1e9),
    ]


class Simulation:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario, seed: int = 0) -> None:
        self.it, self.rng = scenario, random.Random(seed)
        self.env = simpy.Environment()
        self.driver, self.storage = simpy.Resource(self.env), simpy.Resource(self.env)
        self.backlog = Backlog()
        self.workers = {key: Worker(key, scenario.resident) for key in range(scenario.gpus)}
        self.slow = {key for key in self.workers if self.rng.random() < scenario.stragglers}
        self.busy: dict[str, float] = defaultdict(float)
        self.units = self.loads = self.redone = self.done = 0
        self.room, self.arrived = self.env.event(), self.env.event()
        self.ended = False
        self._models = {key: simpy.Resource(self.env) for key in self.workers}

    def run(self) -> dict[str, Any]:
        """Return what was busy, and for how long it all took."""
        clock = time.perf_counter()
        self.env.process(self._stream())
        finished = self.env.process(self._route())
        if self.it.spot_hours:
            for key in list(self.workers):
                self.env.process(self._lives(key))
        self.env.run(finished)
        wall, times = self.env.now, self.it.times
        shares = {
            "gpus": self.busy["gpu"] / (wall * self.it.gpus),
            "driver": self.busy["driver"] / wall,
            "storage": self.busy["storage"] / wall,
        }
        return {
            "scenario": self.it.name,
            "gpus": self.it.gpus,
            "images_per_s": self.it.images / wall,
            "days_for_10_million": _ARCHIVE / self.it.images * wall / 86400,
            "of_ideal": self.it.images * (times.restore_s + times.classify_s) / self.it.gpus / wall,
            **{f"{name}_busy": share for name, share in shares.items()},
            "loads_per_unit": self.loads / self.units,
            "redone": self.redone / self.units,
            "saturated": max(shares, key=shares.__getitem__),
            "router_ms_per_unit": 1000 * (time.perf_counter() - clock) / self.units,
        }

    def _stream(self) -> Steps:
        """Decided rows reach the router as fast as driver and storage let them, and as it has room."""
        shares = zipf_shares(self.it.routes, self.it.zipf)
        drawn = np.random.default_rng(0).choice(self.it.routes, self.it.images, p=shares)
        side = pa.array([_SIDE_PX] * _BATCH, pa.int32())
        for start in range(0, self.it.images, _BATCH):
            while self.backlog.full:
                yield self.room
            numbers = drawn[start : start + _BATCH]
            count = len(numbers)
            yield from self._use("storage", self.storage, count * self.it.times.read_bytes / self.it.storage_bytes_s)
            yield from self._use("driver", self.driver, count * self.it.times.driver_s)
            ids, routes = [f"{start + n:09d}" for n in range(count)], [f"adapter{n:02d}" for n in numbers]
            rows = {"image_id": ids, "route": routes, "width": side[:count], "height": side[:count]}
            self.backlog.add(pa.table(rows), self.env.now)
            self._wake()
        self.ended = True
        self._wake()

    def _route(self) -> Steps:
        """The dispatcher's loop."""
        while self.done < self.it.images:
            self.backlog.flush(self.env.now, closed=self.ended)
            while (chosen := choose(self.backlog, list(self.workers.values()))) is not None:
                worker, unit = chosen.worker, self.backlog.take(chosen.position)
                self.env.process(self._work(worker, unit, worker.assign(unit)))
            if not self.backlog.full and not self.room.triggered:
                self.room.succeed()
                self.room = self.env.event()
            yield self.arrived | self.env.timeout(self.backlog.max_age_s)

    def _work(self, worker: Worker, unit: Unit, loads: int) -> Steps:
        """One unit on one actor: read, wait for the model, load adapters, restore, write, commit."""
        count, times, key = unit.rows.num_rows, self.it.times, worker.key
        yield from self._use("storage", self.storage, count * times.read_bytes / self.it.storage_bytes_s)
        with self._models[key].request() as turn:
            yield turn
            seconds = self.rng.lognormvariate(0, 0.2) * count * (times.restore_s + times.classify_s) / 1.02
            seconds = seconds * (2 if key in self.slow else 1) + times.load_s * loads
            self.loads += loads
            yield self.env.timeout(seconds)
        if self.workers.get(key) is not worker:  # its machine is gone, and so is what it made
            self.redone += 1
            self.backlog.put_back([unit])
            self._wake()
            return
        self.busy["gpu"] += seconds
        yield from self._use("storage", self.storage, count * times.write_bytes / self.it.storage_bytes_s)
        worker.came_back()
        self.units, self.done = self.units + 1, self.done + count
        self._wake()

    def _lives(self, key: int) -> Steps:
        """An actor on a spot machine: it goes, and after a while another one is there."""
        while True:
            yield self.env.timeout(self.rng.expovariate(1 / (3600 * self.it.spot_hours)))
            del self.workers[key]
            yield self.env.timeout(self.it.boot_s)
            self.workers[key] = Worker(key, self.it.resident)
            self._models[key] = simpy.Resource(self.env)
            self._wake()

    def _use(self, name: str, what: simpy.Resource, seconds: float) -> Steps:
        with what.request() as turn:
            yield turn
            yield self.env.timeout(seconds)
        self.busy[name] += seconds

    def _wake(self) -> None:
        if not self.arrived.triggered:
            self.arrived.succeed()
            self.arrived = self.env.event()


def main(argv: list[str] | None = None) -> int:
    """Simulate, and print a table; ``--json FILE`` keeps the figures."""
    parser = argparse.ArgumentParser(prog="python -m jobs.simulate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=300_000, help="simulated of the ten millions")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--json", metavar="FILE")
    for name, value in asdict(Times()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    args = parser.parse_args(argv)
    times = Times(**{name: getattr(args, name) for name in asdict(Times())})
    found = []
    console = Console(width=170)
    for gpus in args.gpus:
        for scenario in scenarios(gpus, args.images):
            found.append(Simulation(replace(scenario, times=times)).run())
            console.print(f"{found[-1]['scenario']}, {gpus} GPUs: {found[-1]['images_per_s']:.1f}/s", style="dim")
    table = Table(*found[0])
    for row in found:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"times": asdict(times), "images": args.images, "runs": found}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
