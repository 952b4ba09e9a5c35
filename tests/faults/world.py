"""What the fault tests share: an archive, a driver of its own, and what "the same as undisturbed" means."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fdi_lib.core.noise import noise_key
from fdi_lib.manifest import RestoreManifest, StorageSettings
from fdi_lib.storage import lease, ledger
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.storage.store import Store
from jobs import verify
from tests.jobs.test_restore import png
from tests.session import Session

# Images of each kind by their mean grey (tests/fakes.py): clean, unknown, noise, haze>noise, scratch.
MEANS = (20, 21, 60, *range(85, 115), *range(125, 155), *range(170, 190))
BROKEN = {"b0.jpg": b"", "b1.png": b"text", "b2.png": png(90)[:-100]}
IMAGES, RESTORED = len(MEANS) + len(BROKEN), len(MEANS) - 3
ENVIRONMENT = {"SOURCE_DATE_EPOCH": "1700000000", "RAY_USAGE_STATS_ENABLED": "0"}
_MAY_DIFFER = ("seconds", "worker")  # in a ledger's row, between two runs of one manifest


def archive(folder: Path) -> Path:
    """Two tars and plain files; three images of them are broken, two clean, one unknown, the others damaged."""
    folder.mkdir(parents=True)
    files = {f"{i:04d}.png": png(mean) for i, mean in enumerate(MEANS)} | BROKEN
    names = sorted(files)
    for shard, members in (("a", names[::3]), ("b", names[1::3])):
        (folder / f"{shard}.tar").write_bytes(tar_bytes([(name, files[name]) for name in members]))
    for name in names[2::3]:
        (folder / name).write_bytes(files[name])
    return folder


class World:
    """One source and one output, worked on by any number of drivers."""

    def __init__(self, source: Path, output: Path, **settings: Any) -> None:
        pools = {
            "decode": {"cpus": 0.5, "memory_gib": 0.1},
            "classify": {"cpus": 0.4, "memory_gib": 0.1, "max": 1, "batch": 4},
            "restore": {"cpus": 0.5, "memory_gib": 0.1, "max": 2},
        }
        base = {"kind": "restore", "source": {"uri": str(source)}, "output": {"uri": str(output)}, "pools": pools}
        limits = {"max_failed_fraction": 0.5, "wait_s": 60.0}
        self.manifest = RestoreManifest.model_validate(base | {"limits": limits} | settings)
        self.source, self.output, self.folder = source, output, output.parent
        self._path = self.folder / f"{output.name}.yaml"
        self._path.write_text(self.manifest.model_dump_json())  # JSON is YAML

    @property
    def store(self) -> Store:
        return Store.open(str(self.output), StorageSettings())

    def driver(self, environment: Mapping[str, str] | None = None) -> Session:
        """Start the job."""
        command = [sys.executable, "-m", "tests.faults.driver", str(self._path)]
        return Session(command, self.folder / f"{self.output.name}.stderr", ENVIRONMENT | dict(environment or {}))

    def rows(self) -> dict[str, dict[str, Any]]:
        """What the ledger says, without what may differ; the output's place is left out."""
        rows = ledger.load_effective(self.store).to_pylist()
        place = f"{self.store.uri()}/"
        for row in rows:
            row["output_uri"] = (row["output_uri"] or "").removeprefix(place)
            for key in _MAY_DIFFER:
                del row[key]
        return {row["image_id"]: row for row in rows}

    def files(self) -> dict[str, str]:
        """Hashes of all that is delivered or set aside. JSON of what is set aside names its place, so not that."""
        found = {}
        for part in ("images", "review", "failed"):
            for path in (self.output / part).rglob("*"):
                if path.is_file():
                    data = path.read_bytes() if part == "images" else b""
                    found[str(path.relative_to(self.output))] = hashlib.sha256(data).hexdigest()
        return found

    def committed(self) -> set[str]:
        """Ids in the ledger."""
        return set(ledger.load_effective(self.store, ["image_id"])["image_id"].to_pylist())

    def restored_times(self) -> Counter[str]:
        """How often the model worked on each image, all drivers together."""
        keys: Counter[int] = Counter()
        for path in Path(f"{self.output}.notes").glob("*"):
            keys.update(int(line) for line in path.read_text().splitlines())
        rows = ledger.load_effective(self.store, ["image_id", "source_sha256"]).to_pylist()
        return Counter(
            {row["image_id"]: keys[noise_key(0, row["source_sha256"])] for row in rows if row["source_sha256"]}
        )

    def outputs(self) -> int:
        """Delivered files so far."""
        return sum(1 for path in (self.output / "images").rglob("*.json"))

    def check_like(self, other: World) -> None:
        """Assert that all is accounted for, the lease is given back, and that nothing differs from another world."""
        assert self.rows() == other.rows()
        assert self.files() == other.files()
        assert verify.run(str(self.output), StorageSettings())["found"] == []
        last = lease.newest(self.store)
        assert last and last.released


def until(what: Callable[[], bool], session: Session, timeout_s: float = 90) -> None:
    """Wait for something to happen while a command runs; return early when the command has ended."""
    end = time.monotonic() + timeout_s
    while not what() and session.process.poll() is None:
        assert time.monotonic() < end, session.errors.read_text()[-3000:]
        time.sleep(0.01)
