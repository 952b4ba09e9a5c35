"""What is said of a job's progress, off a terminal."""

from __future__ import annotations

import logging

import pytest

from jobs import progress
from jobs.progress import Tally


def test_what_earlier_runs_finished_counts_as_done_but_not_as_speed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO), Tally(lambda: 1000) as tally:
        tally.begin(700)
        tally.add({"images": 2, "restored": 2, "source_bytes": 100, "seconds": {}})
    assert "2 images" in caplog.text and "(80% of the bytes)" in caplog.text and tally.images == 2
    (task,) = tally._bar.tasks
    assert (task.completed, task.total) == (800, 1000)
    assert sum(sample.completed for sample in task._progress) == 100  # what the remaining time is told from
