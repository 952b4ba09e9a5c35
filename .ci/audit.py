"""`make audit`: known vulnerabilities of the versions in constraints.txt, as PyPI lists them. Loud where it can't ask.

pip-audit ends with 0 where a mirror knows none of the packages, and with 1 both for a vulnerability and for a dead
network; so what it found is read here. Exit 0: nothing known, or nobody could be asked, which is said; 1: something is
known, or pip-audit itself failed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent / "constraints.txt"
ANSWER_S, WHOLE_S = 10, 300
UNREACHABLE = re.compile(
    r"ConnectionError|ServiceError|[Cc]ould not connect|Time(?:d )?-?[Oo]ut|NameResolution|SSLError"
)


def main() -> int:
    """Ask, say what came out, return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", str(ANSWER_S)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WHOLE_S, check=False)
    except subprocess.TimeoutExpired:
        return _nothing(f"no answer within {WHOLE_S} s")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if UNREACHABLE.search(done.stderr):
            return _nothing(done.stderr.strip().splitlines()[-1])
        print(f"audit: pip-audit failed\n{done.stderr}", file=sys.stderr)
        return 1
    skipped = [each for each in found if "skip_reason" in each]
    if not found or len(skipped) == len(found):
        return _nothing(f"{len(skipped)} packages are unknown to the index that answers")
    for package in found:
        for known in package.get("vulns", ()):
            mended = ", ".join(known.get("fix_versions", ())) or "no version yet"
            print(f"audit: {package['name']} {package['version']}: {known['id']}, mended in {mended}", file=sys.stderr)
    bad = [package for package in found if package.get("vulns")]
    print(f"audit: {len(found) - len(skipped)} packages looked up, {len(skipped)} not, {len(bad)} with vulnerabilities")
    return 1 if bad else 0


def _nothing(why: str) -> int:
    line = "!" * 100
    print(f"{line}\nNOTHING WAS AUDITED: {why}\n{line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
