"""What every test may ask for: a small local Ray, and the S3 server where one is installed.

Knows no test. Says at the end, in plain sight, what was skipped and why.
"""

from __future__ import annotations

import os

# Before torch or Ray is imported: offline, quiet, and with one thread so that results do not depend on the machine.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", HF_HUB_OFFLINE="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Machines are shared and noisy: a slow example is no failure.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

if (Path(__file__).parent / "s3.py").exists():  # the s3_server fixture
    pytest_plugins = ["tests.s3"]


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of two CPUs on this machine, shared by all tests that ask for it."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    yield
    ray.shutdown()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List skipped tests by reason, loudly: a skipped check proves nothing."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section("NOT CHECKED", sep="!", yellow=True, bold=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count} skipped: {reason}", yellow=True)


@pytest.fixture
def graphs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile records graphs and guards them, but runs them as they are: no minutes of a compiler."""
    import torch

    from fdi_lib.models import speed

    compiler = torch.compile
    monkeypatch.setattr(
        speed.torch, "compile", lambda function, mode, dynamic: compiler(function, backend="eager", dynamic=dynamic)
    )
