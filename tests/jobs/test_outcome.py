"""A summary is shown as a table, a text or JSON; a reader that goes away is no error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.outcome import Outcome, table

ROOT = Path(__file__).parents[2]


def test_table() -> None:
    shown = table({"images": 1200, "per_s": 1.5, "done": True, "eta": None, "nested": {}})
    assert shown.splitlines() == ["images  1,200", "per s   1.50", "done    yes", "eta     -"]


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    for outcome in (Outcome({"a": 1}), Outcome({"a": 1}, "text")):
        outcome.show(as_json=True)
        assert json.loads(capsys.readouterr().out) == {"a": 1}
        outcome.show(as_json=False)
        assert capsys.readouterr().out == (f"{outcome.text}\n" if outcome.text else "a  1\n")


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize(
    "command",
    ["from jobs import cli; code = cli.main(['--help'])", "Outcome({}, 'x\\n' * LINES).show(False); code = 4"],
)
def test_a_reader_that_has_gone_is_no_error(lines: int, command: str) -> None:
    code = f"import sys\nfrom jobs.outcome import Outcome\nLINES = {lines}\nsys.stdin.read()\n{command}\nsys.exit(code)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()  # before anything is printed
    process.stdin.close()
    assert process.stderr.read() == "" and process.wait(60) == (0 if "help" in command else 4)
    process.stderr.close()
