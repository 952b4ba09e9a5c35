"""A driver that is killed, told to end, or started twice: nothing lost, nothing double, the same bytes."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from fdi_lib.storage import lease
from tests.faults.world import IMAGES, RESTORED, World, until

_ROUNDS = 5
_KILLS = 4  # in each round: the same output is killed again and again before it may finish


def killed_again_and_again(world: World, kills: int, rng: random.Random) -> None:
    """Kill drivers at random points of their work; check that nothing that was committed is done again."""
    total = world.restored_times
    for number in range(kills):
        goal = world.outputs() + rng.randrange(0, RESTORED // kills)
        with world.driver() as driver:
            until(lambda goal=goal: (world.output / "run.json").exists() and world.outputs() >= goal, driver)
            time.sleep(rng.uniform(0, 0.5))
            driver.kill([driver.process.pid])
            driver.process.wait()
            before = {name: total()[name] for name in world.committed()}
            until(lambda: len(driver.pids()) == 0, driver, 30)
        later = total()
        assert {name: later[name] for name in before} == before, f"done again after kill {number + 1}"
    with world.driver() as driver:
        assert driver.summary()["images"] == IMAGES


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, _ROUNDS))])
def test_killed_at_random_points_it_ends_as_if_undisturbed(tmp_path: Path, undisturbed: World, seed: int) -> None:
    world = World(undisturbed.source, tmp_path / "out")
    killed_again_and_again(world, 2 if seed == 0 else _KILLS + (seed == 1) * 2, random.Random(seed))
    world.check_like(undisturbed)


def test_told_to_end_it_finishes_what_is_in_flight_and_gives_the_lease_back(tmp_path: Path, undisturbed: World) -> None:
    world = World(undisturbed.source, tmp_path / "out", limits={"max_failed_fraction": 0.5, "grace_s": 20.0})
    with world.driver() as driver:
        until(lambda: world.outputs() >= 10, driver)
        started = time.monotonic()
        driver.process.send_signal(signal.SIGTERM)
        code, _ = driver.end(60)
        assert code == 1 and time.monotonic() - started < 20
    errors = driver.errors.read_text()
    assert "SIGTERM" in errors and "the same command resumes" in errors and "Traceback" not in errors
    last = lease.newest(world.store)
    assert last and last.released and 0 < len(world.committed()) < IMAGES
    delivered = {row["output_uri"] for row in world.rows().values()}
    assert {name for name in world.files() if name.startswith("images/") and not name.endswith(".json")} <= delivered
    with world.driver() as driver:
        driver.summary()
    assert set(world.restored_times().values()) <= {0, 1}, "what was in flight is not done again"
    world.check_like(undisturbed)


def test_of_two_jobs_started_at_once_one_works_and_the_other_says_who(tmp_path: Path, undisturbed: World) -> None:
    world = World(undisturbed.source, tmp_path / "out")
    with world.driver() as first, world.driver() as second:
        codes = sorted(driver.end()[0] for driver in (first, second))
    assert codes == [0, 1]
    assert "is at work on this output; run again when it is done" in first.errors.read_text()
    assert set(world.restored_times().values()) <= {0, 1}
    world.check_like(undisturbed)
