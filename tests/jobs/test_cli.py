"""The command line: exit codes, the last line of --json, light imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli
from tests.jobs.finished_run import finished_run

ROOT = Path(__file__).parents[2]
COMMANDS = ["restore", "plan", "status", "failed", "retry", "verify", "report", "pack", "bank", "train", "evaluate"]
COMMANDS += ["adapters", "bench", "demo"]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["restore"], "MANIFEST"),
        (["restore", "nowhere.yaml"], "nowhere.yaml: no such manifest"),
        (["restore", "nowhere.yaml", "--jsn"], "unrecognized arguments: --jsn"),
        (["plan", "nowhere.yaml", "a=b"], "no such manifest"),
        (["status", "s3://key:planted@bucket/x"], "OUTPUT: carries a credential"),
        (["status", "nowhere", "--endpoint-url", "http://key:planted@host"], "--endpoint-url: carries a credential"),
        (["status", "nowhere"], "holds no run.json"),
        (["pack", "only-one"], "DEST"),
    ],
)
def test_mistakes_end_with_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert expected in shown.err and "Traceback" not in shown.err and "planted" not in shown.err
    assert shown.out == "" and list(tmp_path.iterdir()) == []


def test_json_is_the_last_line_wherever_the_option_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = finished_run(tmp_path)
    for words in (["--json", "status", output], ["status", "--json", output], ["status", output, "--json"]):
        assert cli.main(words) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 6
    assert cli.main(["status", output]) == 0
    assert "restored" in capsys.readouterr().out


def test_verify_ends_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = finished_run(tmp_path)
    assert cli.main(["verify", output]) == 0
    Path(output, "images/a/1.jpg").write_bytes(b"x")
    assert cli.main(["verify", output]) == 4
    assert "another size: a/1.jpg" in capsys.readouterr().out
    assert cli.main(["verify", output, "--json"]) == 4
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["differences"] == 1


def test_too_many_failed_ends_with_3() -> None:
    fine = {"stopped_early": False, "failed_fraction_exceeded": False}
    assert cli._accounted(fine).code == 0
    assert cli._accounted(fine | {"failed_fraction_exceeded": True}).code == 3
    assert cli._accounted(fine | {"stopped_early": True}).code == 3


def _main_that(behaves: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, whose ``status`` job behaves in a certain way."""
    code = f"import sys, types\nfrom jobs import cli\njob = types.ModuleType('jobs.status')\n{behaves}\njob.run = run\n"
    code += "import jobs; jobs.status = sys.modules['jobs.status'] = job\nsys.exit(cli.main(['status', 'x']))\n"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_a_bug_ends_with_1_and_its_traceback() -> None:
    process = _main_that("def run(*a): return 1 / 0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "ZeroDivisionError" in errors


def test_an_outage_ends_with_1() -> None:
    process = _main_that(
        "def run(*a):\n from fdi_lib.errors import StorageOutageError\n raise StorageOutageError('down')"
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors == "fdi: down\n"


def test_sigterm_ends_with_1() -> None:
    process = _main_that("def run(*a):\n import time\n print('ready', flush=True)\n time.sleep(60)")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "the same command resumes" in errors and "Traceback" not in errors


def test_job_modules_are_commands(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.status", output, "--json"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 6


def test_no_heavy_library_before_a_command_needs_it() -> None:
    heavy = ["torch", "ray", "pyvips", "pyarrow", "numpy"]
    code = "import sys\nfrom jobs import cli\ncli.main(['restore', 'nowhere.yaml'])\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_manual_names_every_command_and_exit_code() -> None:
    manual = (ROOT / "docs/cli.md").read_text()
    assert all(f"`fdi {command}" in manual for command in COMMANDS)
    assert all(f"| **{code}** |" in manual for code in range(5))


@pytest.mark.parametrize("command", [["adapters"], ["bank", "show"], ["status"]])
def test_a_secret_in_a_uri_is_refused_and_not_repeated(command, capsys):
    assert cli.main([*command, "s3://key:planted-secret@bucket/prefix"]) == 2
    printed = capsys.readouterr()
    assert "credential" in printed.err
    assert "planted-secret" not in printed.err + printed.out
