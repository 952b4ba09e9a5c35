"""The simulation does every image once, takes the time that follows from its figures, and shows what is short."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import simulate
from jobs.simulate import Scenario, Simulation, Times

CALM = Scenario("calm", gpus=4, images=4000, times=Times(restore_s=1.0, classify_s=0.02))


def test_gpus_that_lack_nothing_are_busy_all_the_time() -> None:
    found = Simulation(CALM).run()
    assert 0.9 < found["gpus_busy"] <= 1.0 and found["saturated"] == "gpus" and found["redone"] == 0
    assert found["images_per_s"] == pytest.approx(4 / 1.02, rel=0.1)
    assert found["loads_per_unit"] * 4000 / 16 <= 8 * 4  # each adapter at most once on each actor


def test_what_is_short_saturates() -> None:
    storage = Simulation(replace(CALM, storage_bytes_s=10e6)).run()
    assert storage["saturated"] == "storage" and storage["storage_busy"] > 0.9
    assert storage["images_per_s"] == pytest.approx(10e6 / 15e6, rel=0.1)
    driver = Simulation(replace(CALM, times=replace(CALM.times, driver_s=1.0))).run()
    assert driver["saturated"] == "driver" and driver["images_per_s"] == pytest.approx(1.0, rel=0.1)


def test_what_a_lost_machine_had_is_done_again() -> None:
    found = Simulation(replace(CALM, spot_hours=0.05, boot_s=10.0)).run()
    assert found["redone"] > 0 and found["gpus_busy"] < 1.0 and found["images_per_s"] < 4 / 1.02


def test_slow_machines_cost_their_share() -> None:
    slow = Simulation(replace(CALM, stragglers=1.0)).run()
    assert slow["images_per_s"] == pytest.approx(2 / 1.02, rel=0.1)


def test_the_command_prints_and_keeps_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sim.json"
    assert simulate.main(["--images", "2000", "--gpus", "2", "--json", str(path), "--restore-s", "0.5"]) == 0
    found = json.loads(path.read_text())
    assert found["times"]["restore_s"] == 0.5 and len(found["runs"]) == 6
    assert "64 skewed" in capsys.readouterr().out
