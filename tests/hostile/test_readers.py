"""Each hostile file is read as the picture it holds, or refused with its reason, in bounded time and memory.

Nothing else happens: no other exception, no black or partial picture, no dead process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.records import Reason
from tests.hostile.cases import DECODED, Case, honest
from tests.hostile.corpus import images

# What one file may take from all readers together: an inspection, a thumbnail, two decodings and four encodings. An
# honest picture of this size takes hundredths of a second. The seconds allow for a busy machine.
MOST_SECONDS = 30.0
MOST_MIB = 200.0


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the child process found, by name."""
    folder, lines = tmp_path_factory.mktemp("hostile"), []
    for number, case in enumerate(images()):
        path = folder / str(number)
        path.write_bytes(case.data)
        lines.append(json.dumps({"path": str(path), "name": case.name, "altered": case.altered}))
    (folder / "list").write_text("\n".join(lines))
    command = [sys.executable, "-m", "tests.hostile.measure", str(folder / "list")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, env=dict(os.environ))
    found = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    if done.returncode:
        unreached = [case.name for case in images() if case.name not in found]
        pytest.fail(f"the readers died of {unreached[:1]}, exit {done.returncode}: {done.stderr[-2000:]}")
    return found


def test_the_corpus_is_large_and_always_the_same() -> None:
    names = [case.name for case in images()]
    assert len(names) == len(set(names)) >= 400
    once = {case.name: case.data for case in images()}
    images.cache_clear()
    honest.cache_clear()
    assert once == {case.name: case.data for case in images()}


def test_the_corpus_meets_every_reason_a_reader_gives() -> None:
    certain = Counter(outcome for case in images() if len(case.outcomes) == 1 for outcome in case.outcomes)
    expected = {DECODED, Reason.EMPTY_FILE, Reason.NOT_AN_IMAGE, Reason.TRUNCATED, Reason.UNREADABLE,
                Reason.TOO_LARGE, Reason.UNSUPPORTED_PIXELS}  # fmt: skip
    assert certain.keys() == expected and min(certain.values()) >= 4


@pytest.mark.parametrize("case", images(), ids=lambda case: case.name)
def test_hostile_file(case: Case, measured: dict[str, dict[str, Any]]) -> None:
    found = measured[case.name]
    assert not found["wrong"], found["wrong"]
    assert found["outcome"] in case.outcomes
    assert found["seconds"] < MOST_SECONDS
    assert found["mib"] < MOST_MIB
