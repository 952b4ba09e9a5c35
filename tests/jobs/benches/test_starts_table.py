"""No schedule is measured twice, near ones on more tiles; differences are taken tile by tile."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import pytest

from fdi_lib.core.protocol import Sample, Tile
from fdi_lib.manifest.restoring import Init
from fdi_lib.models.sampling import Schedule
from jobs.benches.starts_table import (
    LONG_STEPS,
    STEPS,
    compared,
    grid,
    levels,
    measured,
    print_table,
    schedule_text,
    summary,
    with_steps,
)

OWN = Schedule("input", 0.7, 1, 1.0)


def test_the_grid_holds_every_start_with_every_number_of_steps_once() -> None:
    found = grid(OWN, STEPS)
    assert found[0] == OWN
    different = {(s.init, s.start_t, s.steps, s.guided_steps) for s in found}
    assert len(different) == len(found)
    at_own = {(s.init, s.steps, s.guided_steps) for s in found if s.start_t == (1 if s.init == "pure_noise" else 0.7)}
    guided = {(1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 3), (8, 8), (20, 7), (20, 20)}
    assert at_own == {(init, *steps) for init in get_args(Init) for steps in guided}
    assert {s.start_t for s in found if s.init != "pure_noise"} == {0.7, 0.35, 1.0}
    assert {s.start_t for s in found if s.init == "pure_noise"} == {1.0}
    assert {s.steps for s in grid(OWN, LONG_STEPS)} - {s.steps for s in found} == {50}


def test_an_own_schedule_beside_the_grid_joins_it_as_it_is() -> None:
    own = Schedule("noised_input", 0.3, 6, 0.9)
    assert grid(own, STEPS)[0] == own and len(grid(own, STEPS)) == len(grid(Schedule("input", 0.3, 1, 1.0), STEPS)) + 1
    same = Schedule("input", 0.3, 4, 0.5)  # guides the same two steps as a third of four
    assert grid(same, STEPS)[0] == same and len(grid(same, STEPS)) == len(grid(OWN, STEPS))
    assert levels(1.0) == [1.0, 0.5] and levels(0.123456) == [0.123456, 0.0617, 0.1852]


class FakeSampler:
    """An error by number of steps; counts tiles restored, but for one a name that loads it."""

    def __init__(self, errors: dict[int, int], most: int = 1000) -> None:
        self.errors, self.most, self.tiles = errors, most, -1

    def restored(self, name: str, sample: Sample, schedule: Schedule) -> np.ndarray:
        self.tiles += 1
        if self.tiles > self.most:
            raise KeyboardInterrupt
        return sample.tile.pixels + np.uint8(self.errors[schedule.steps])


def samples(count: int) -> list[Sample]:
    clean = np.full((16, 16, 3), 100, np.uint8)
    return [Sample(("haze",), Tile("p", i, clean), clean // 2, i) for i in range(count)]


def test_near_schedules_are_measured_on_more_tiles_and_an_interruption_costs_a_row() -> None:
    wanted = [("haze", schedule) for schedule in with_steps(OWN, (1, 2, 8))]
    errors = {1: 10, 2: 30, 8: 9}
    rows: list[dict[str, Any]] = []
    kept: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        broken: Any = FakeSampler(errors, most=15)
        measured(broken, wanted, samples(12), rows, lambda: kept.append(len(rows)))
    assert kept == [1, 2]
    rows = rows[:2]  # what was kept
    sampler: Any = FakeSampler(errors)
    found = measured(sampler, wanted, samples(12), rows, lambda: kept.append(len(rows)))
    assert [(row["steps"], len(row["psnr"])) for row in found] == [(1, 12), (2, 2), (2, 2), (8, 6), (8, 6)]
    assert sampler.tiles == 2 + 6 + 6 and found == rows
    assert {len(row[key]) for row in found[1:3] for key in ("psnr", "ssim", "seconds", "cpu_seconds")} == {2}
    again: Any = FakeSampler(errors, most=-1)
    assert measured(again, wanted, samples(12), rows, lambda: kept.append(-1)) == found and -1 not in kept


def test_of_many_near_schedules_the_eight_best_contend() -> None:
    wanted = [("haze", Schedule("input", 0.7, steps, 1.0)) for steps in (1, 2, 3, 4)]
    wanted += [("haze", Schedule("input", level, 2, 1.0)) for level in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    sampler: Any = FakeSampler({1: 10, 2: 10, 3: 11, 4: 9})
    found = measured(sampler, wanted, samples(12), [], lambda: None)
    assert [len(row["psnr"]) for row in found] == [12, 12, 2, 12, 12, 12, 12, 12, 12, 2]


def row(schedule: Schedule, psnr: list[float], seconds: float) -> dict[str, Any]:
    spent = {"seconds": [seconds] * len(psnr), "cpu_seconds": [2 * seconds] * len(psnr)}
    return asdict(schedule) | {"psnr": psnr, "ssim": [0.5] * len(psnr)} | spent


def test_differences_are_taken_on_the_same_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row(Schedule("input", 0.7, 4, 1.0), [20.0, 30.0, 31.0], 4.0),  # the own one
        row(Schedule("input", 0.7, 1, 1.0), [21.0, 28.0, 30.0], 2.0),
        row(Schedule("pure_noise", 1.0, 20, 1 / 3), [21.0, 30.5], 40.0),  # mean 25.75: lower than the own one's
    ]
    told = compared(rows)
    assert [one["init"] for one in told] == ["pure_noise", "input", "input"]
    assert [one["rank"] for one in told] == [1, 2, 3]
    assert [one["over_own"] for one in told] == pytest.approx([0.75, 0.0, -2 / 3])
    assert [one["better"] for one in told] == [2, 0, 1] and [one["tiles"] for one in told] == [2, 3, 3]
    assert [one["is_own"] for one in told] == [False, True, False]
    assert [one["time"] for one in told] == [one["cpu_time"] for one in told] == [20.0, 2.0, 1.0]
    short = summary("haze", 12.0, told)
    assert (short["own"], short["rank"], short["of"]) == ("input 0.7, 4 steps", 2, 3)
    assert short["best"] == schedule_text(rows[2]) == "pure_noise 1, 20 steps (7 guided)"
    assert short["difference_db"] == pytest.approx(0.75) and (short["better"], short["tiles"]) == (2, 2)
    print_table("haze", told, "shipped")
    lines = [line for line in capsys.readouterr().out.splitlines() if "steps" in line and "start" not in line]
    assert [("shipped" in line) for line in lines] == [False, True]
