"""A job's process for tests that run several jobs: it starts Ray once, with the credentials it was started with.

Reads requests, a JSON object a line, and answers each with one: ``{"summary"}``, or
``{"error", "exit_code", "message"}``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class S3Job:
    """The process, seen from the test. ``environment`` is its whole environment, and that of its workers."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.s3_job"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment,
            )  # fmt: skip

    def run(self, what: str, target: str, **options: Any) -> dict[str, Any]:
        """``restore`` a manifest, or ``retry`` an output; return the answer."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps({"what": what, "target": target, **options}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, self._log.read_text()[-4000:]
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End it, and its Ray."""
        assert self._process.stdin
        self._process.stdin.close()  # it ends by itself when nothing more can come
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _main() -> None:
    import ray

    from fdi_lib.errors import FDIError
    from fdi_lib.manifest import StorageSettings, load_manifest
    from jobs import restore
    from jobs.parts import Parts
    from tests import fakes  # by its name, for the workers import it

    answers = sys.stdout
    sys.stdout = sys.stderr  # nobody else may speak where answers go
    parts = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["what"] == "retry":
                summary = restore.retry(asked["target"], parts, StorageSettings.model_validate(asked["storage"]))
            else:
                manifest: Any = load_manifest(asked["target"], asked.get("overrides", []), "restore")
                summary = restore.run(manifest, parts)
            answer: dict[str, Any] = {"summary": summary}
        except FDIError as error:
            answer = {"error": type(error).__name__, "exit_code": error.exit_code, "message": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    _main()
