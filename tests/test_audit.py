"""What `make audit` decides, with a pip_audit that says what it is told to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
FINE = {"name": "good", "version": "1", "vulns": []}
SKIPPED = {"name": "odd", "skip_reason": "Dependency not found on PyPI and could not be audited: odd (1)"}
BAD = {"name": "leaky", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": []}]}
DEAD = "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='pypi.org'): Max retries exceeded"


def audit(folder: Path, code: int, dependencies: list[dict[str, object]] | None, errors: str = "") -> tuple[int, str]:
    """Exit code and all that is said, where pip_audit ends with ``code`` and prints this."""
    printed = "" if dependencies is None else json.dumps({"dependencies": dependencies, "fixes": []})
    says = f"print({printed!r}); print({errors!r}, file=sys.stderr); sys.exit({code})"
    (folder / "pip_audit.py").write_text(f"import sys\nassert '--timeout' in sys.argv\n{says}\n")
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(folder)}
    )
    return done.returncode, done.stdout + done.stderr


def test_a_vulnerability_fails_and_is_named(tmp_path: Path) -> None:
    code, said = audit(tmp_path, 1, [FINE, SKIPPED, BAD])
    assert code == 1 and "leaky 2: PYSEC-1, mended in 3" in said and "2 packages looked up, 1 not, 1 with" in said


def test_nothing_known_passes(tmp_path: Path) -> None:
    code, said = audit(tmp_path, 0, [FINE, SKIPPED])
    assert code == 0 and "1 packages looked up, 1 not, 0 with" in said and "NOTHING" not in said


@pytest.mark.parametrize(
    ("code", "dependencies", "errors"),
    [
        (1, None, DEAD),
        (1, None, "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed"),
        (0, [SKIPPED, SKIPPED], ""),  # a mirror that knows no advisories: pip-audit itself is content
    ],
    ids=["no network", "no answer", "a mirror"],
)
def test_where_nobody_can_be_asked_it_is_said_loudly(
    tmp_path: Path, code: int, dependencies: list[dict[str, object]] | None, errors: str
) -> None:
    ended, said = audit(tmp_path, code, dependencies, errors)
    assert ended == 0 and "NOTHING WAS AUDITED" in said


def test_a_failure_of_its_own_is_none_of_the_network(tmp_path: Path) -> None:
    code, said = audit(tmp_path, 1, None, "ERROR:pip_audit._cli:requirement file constraints.txt contains no pin")
    assert code == 1 and "pip-audit failed" in said
