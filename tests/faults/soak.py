"""``make soak``: very many small images, no-op models, and drivers that are killed at random; prints what it cost.

    python -m tests.faults.soak FOLDER [--images N] [--minutes M] [--kill-every-s S] [--seed N]

Ends with exit code 1 if an image was lost or done twice, or if a driver's memory or file handles grew.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.pack import tar_bytes
from jobs import verify
from jobs.memory import resident_mib
from tests.faults.world import World
from tests.session import Session

_SHARD_IMAGES = 1000
_SAMPLE_S = 5.0
_WARM_UP_S = 60.0  # of a driver, before its memory counts
_MAY_GROW = 1.15  # last third of a driver's life against its first, after the warm-up


def make_archive(folder: Path, images: int, seed: int) -> Path:
    """Write tar shards of small PNG files; their mean greys call for all that the fakes know."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for start in range(0, images, _SHARD_IMAGES):
        members = []
        for number in range(start, min(start + _SHARD_IMAGES, images)):
            mean = int(rng.integers(20, 220))
            sink = io.BytesIO()
            Image.fromarray(rng.integers(mean - 5, mean + 6, (24, 32, 3)).astype(np.uint8)).save(sink, "png")
            members.append((f"{number:07d}.png", sink.getvalue()))
        (folder / f"{start // _SHARD_IMAGES:05d}.tar").write_bytes(tar_bytes(members))
    return folder


def sample(driver: Session) -> tuple[float, float, int]:
    """Seconds since the epoch, MiB in memory, and open file handles of the driver."""
    pid = driver.process.pid
    return time.time(), resident_mib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def live(driver: Session, for_s: float) -> list[tuple[float, float, int]]:
    """Sample a driver until it ends or its time is up."""
    samples, end = [], time.monotonic() + for_s
    while driver.process.poll() is None and time.monotonic() < end:
        try:
            samples.append(sample(driver))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(_SAMPLE_S)
    return samples


def growth(samples: list[tuple[float, float, int]], column: int) -> float | None:
    """Median of the last third over that of the first, after the warm-up; None for a life too short to tell."""
    later = [each[column] for each in samples if each[0] > samples[0][0] + _WARM_UP_S] if samples else []
    third = len(later) // 3
    return float(np.median(later[-third:]) / np.median(later[:third])) if third >= 4 else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=120.0, help="after them no driver is killed any more")
    parser.add_argument("--kill-every-s", type=float, default=240.0, help="on average")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng, started = random.Random(args.seed), time.monotonic()
    world = World(make_archive(args.folder / "in", args.images, args.seed), args.folder / "out")
    lives, kills, done = [], 0, False
    while not done:
        with world.driver({"FDI_TEST_FAST": "1"}) as driver:
            calm = time.monotonic() - started > 60 * args.minutes
            lives.append(live(driver, 1e9 if calm else rng.uniform(0.2, 1.8) * args.kill_every_s))
            if driver.process.poll() is None:
                driver.kill([driver.process.pid])
                kills += 1
            else:
                done = driver.process.returncode == 0
                if not done:
                    print(driver.errors.read_text()[-3000:], file=sys.stderr)
                    return 1
        times = world.restored_times()
        print(f"{time.monotonic() - started:.0f} s, {len(world.committed())} images, {kills} kills", flush=True)
    found = verify.run(str(world.output), StorageSettings())
    longest = max(lives, key=len)
    result = {
        "images": args.images,
        "rows": found["rows"],
        "differences": found["differences"],
        "kills": kills,
        "seconds": round(time.monotonic() - started),
        "images_worked_on_more_than_once": sum(count > 1 for count in times.values()),
        "driver_mib": [round(each[1]) for each in longest[:: max(1, len(longest) // 10)]],
        "driver_handles": [each[2] for each in longest[:: max(1, len(longest) // 10)]],
        "memory_growth": growth(longest, 1),
        "handles_growth": growth(longest, 2),
    }
    print(json.dumps(result, indent=1))
    grew = any((result[key] or 1.0) > _MAY_GROW for key in ("memory_growth", "handles_growth"))  # type: ignore[operator]
    return int(bool(found["differences"]) or found["rows"] != args.images or grew)


if __name__ == "__main__":
    sys.exit(main())
