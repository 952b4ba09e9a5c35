"""Fuzz the readers: mutated files of the corpus, each read in a child process with limits on time and memory.

    python -m tests.hostile.fuzz --minutes 30 [--seed N] [--engine own|guided]    offenders go to out/fuzz
    python -m tests.hostile.fuzz --replay FILE                                    read one of them again

The engine ``guided`` steers by coverage of our own code and needs atheris (``pip install atheris``); it is the default
where that is installed. An input is a byte for its kind and the bytes of a file; without such a byte it is an image.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.child import CRASH, HANG, UNEXPECTED, Child, serve
from tests.hostile.mutate import MAX_BYTES, mutate

MOST_SECONDS = 20  # for one input; an honest one takes hundredths
MOST_BYTES = 3 << 30  # RLIMIT_AS of the child, of which libraries and their threads map a good part
LIMIT_MP = 2.0  # pictures above are refused, so that memory says something
IMAGE, TAR, PARQUET = b"\xf0", b"\xf1", b"\xf2"
_SELF = [sys.executable, "-m", "tests.hostile.fuzz"]


def read(data: bytes) -> None:
    """Read one input. Imports late, because the guided engine watches what is imported.

    Raises:
        Exception: what no reader may raise.
    """
    from fdi_lib.storage.shards import parquet_rows, tar_members
    from tests.hostile.readers import exercise, exercise_shard

    kind, body = data[:1], data[1:]
    if kind == TAR:
        exercise_shard(body, tar_members)
    elif kind == PARQUET:
        exercise_shard(body, parquet_rows)
    else:
        exercise(body if kind == IMAGE else data, LIMIT_MP)


def sound() -> list[bytes]:
    """Files in order, half of them with all the metadata that there can be."""
    from tests.hostile.cases import honest
    from tests.storage.pictures import KINDS, rich

    return [IMAGE + data for data in (*(rich(*kind) for kind in KINDS), *honest().values())]


def seeds() -> list[bytes]:
    """What is mutated: the sound files and the corpus, as far as they are small."""
    from tests.hostile.corpus import images
    from tests.hostile.shards import shards

    found = [*sound(), *(IMAGE + case.data for case in images())]
    found += [(TAR if shard.path.endswith(".tar") else PARQUET) + shard.data for shard in shards()]
    return [data for data in dict.fromkeys(found) if len(data) <= MAX_BYTES]


SLOW = "slow"  # told and stored; within the limit, so nothing that is wrong
_ARTIFACTS = {"timeout": HANG, "slow-unit": SLOW}  # by libFuzzer's names; it goes on after slow ones


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The input with its file mutated and its kind kept."""
    kinds = (IMAGE, TAR, PARQUET)
    kind, body = (data[:1], data[1:]) if data[:1] in kinds else (IMAGE, data)
    return kind + mutate(body, rng, others)


def fuzz(minutes: float, seed: int, store: Path) -> Counter[str]:
    """Read the seeds, then mutations of them for so many minutes; return counts."""
    ends, rng, pool = time.monotonic() + 60 * minutes, random.Random(seed), seeds()
    bare, counts = [data[1:] for data in pool], Counter(inputs=len(pool))
    with Child([*_SELF, "--child"], MOST_SECONDS) as child:
        for data in _endless(pool, bare, rng):
            if time.monotonic() >= ends:
                return counts
            verdict, told = child.run(data)
            counts["executions"] += 1
            if verdict:
                counts[verdict] += 1
                keep(store, verdict, data, told)
    raise AssertionError("the inputs came to an end")


def _endless(pool: list[bytes], bare: list[bytes], rng: random.Random) -> Iterator[bytes]:
    whole = sound()
    yield from pool
    while True:
        # Half of them from sound files: damage to what is broken already is seldom looked at.
        yield mutated(rng.choice(whole if rng.random() < 0.5 else pool), rng, bare)


def keep(store: Path, verdict: str, data: bytes, told: str) -> None:
    """Store an offender, called by what it did and its hash, with what was said beside it."""
    store.mkdir(parents=True, exist_ok=True)
    name = f"{verdict.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:16]}"
    (store / name).write_bytes(data)
    (store / f"{name}.txt").write_text(told)
    print(f"{store / name}: {told.strip().splitlines()[-1] if told.strip() else verdict}", file=sys.stderr, flush=True)


def fuzz_guided(minutes: float, seed: int, store: Path) -> Counter[str]:
    """As :func:`fuzz`, by libFuzzer in a child that is started anew whenever an input has ended it."""
    import subprocess

    ends, counts, first = time.monotonic() + 60 * minutes, Counter(inputs=len(seeds())), True
    with tempfile.TemporaryDirectory() as folder:
        corpus, artifacts, tally = (Path(folder, name) for name in ("corpus", "artifacts", "tally"))
        corpus.mkdir()
        artifacts.mkdir()
        for number, data in enumerate(seeds()):
            (corpus / f"{number:05d}").write_bytes(data)
        while (left := int(ends - time.monotonic())) > 0:
            tally.write_text("0")
            limits = [f"-max_total_time={left}", f"-timeout={MOST_SECONDS}", f"-max_len={MAX_BYTES}", "-rss_limit_mb=0"]
            flags = [*limits, f"-seed={seed + 1}", f"-artifact_prefix={artifacts}/", str(corpus)]  # 0 would be random
            done = subprocess.run([*_SELF, "--guided", str(tally), str(store), *flags], capture_output=True, text=True)
            runs, _, wrong = tally.read_text().partition(" ")
            counts["executions"] += int(runs)
            counts[UNEXPECTED] += int(wrong or 0)
            for path in sorted(artifacts.iterdir()):
                verdict = _ARTIFACTS.get(path.name.rpartition("-")[0], CRASH)
                counts[verdict] += 1
                keep(store, verdict, path.read_bytes(), done.stderr[-4000:])
                path.unlink()
            if first and int(runs) < 2:
                raise SystemExit(f"the guided engine does not run: {done.stderr[-2000:]}")
            first, seed = False, seed + 1
    return counts


def guided_child(tally: Path, store: Path, flags: list[str]) -> None:
    """The child of :func:`fuzz_guided`; ``tally`` gets its counts of executions and of unexpected exceptions."""
    import atheris

    with atheris.instrument_imports(include=["fdi_lib.storage"]):
        importlib.import_module("tests.hostile.readers")
    limit_memory()
    pool, counts = [data[1:] for data in seeds()], Counter(runs=0, wrong=0)

    def one(data: bytes) -> None:
        counts["runs"] += 1
        try:
            read(data)
        except Exception:  # told, stored, and on
            counts["wrong"] += 1
            keep(store, UNEXPECTED, data, traceback.format_exc())
        if counts["runs"] % 20 == 1:
            tally.write_text(f"{counts['runs']} {counts['wrong']}")

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return mutated(data, rng, pool)[:max_size] if rng.random() < 0.7 else atheris.Mutate(data, max_size)

    atheris.Setup([sys.argv[0], *flags], one, custom_mutator=change)
    atheris.Fuzz()


def limit_memory() -> None:
    """Let this process map no more than ``MOST_BYTES``, and leave no core behind."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    has_atheris = importlib.util.find_spec("atheris") is not None
    parser.add_argument("--engine", choices=("own", "guided"), default="guided" if has_atheris else "own")
    parser.add_argument("--store", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--replay", type=Path)
    settings = parser.parse_args(arguments)
    if settings.replay:
        read(settings.replay.read_bytes())
        print("read as it should be")
        return 0
    counts = {"own": fuzz, "guided": fuzz_guided}[settings.engine](settings.minutes, settings.seed, settings.store)
    bad = {verdict: counts[verdict] for verdict in (CRASH, HANG, UNEXPECTED)}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used) / 60
    print(f"{settings.engine}, seed {settings.seed}, {settings.minutes:g} minutes, {cpu:.1f} of CPU: "
          f"{counts['inputs']} inputs, "
          f"{counts['executions']} executions, {bad[CRASH]} crashes, {bad[HANG]} hangs, "
          f"{bad[UNEXPECTED]} unexpected exceptions, {counts[SLOW]} slow")  # fmt: skip
    return 1 if any(bad.values()) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        seeds()  # everything is imported before memory is limited
        limit_memory()
        serve(read)
    elif sys.argv[1:2] == ["--guided"]:
        guided_child(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main(sys.argv[1:]))
