"""Whose the output of a training is: free, this recipe's and finished, or somebody else's; and one training at a time.

Does NOT know what is trained, nor what is written there (``result.py``, ``compact.py``).
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fdi_lib.errors import LeaseError, RunConflictError
from fdi_lib.manifest import TrainManifest
from fdi_lib.storage.lease import held
from fdi_lib.storage.store import Store

_WRITTEN = ("README.md", "config.json", "fdi.safetensors", "adapter.safetensors", "base.safetensors",
            "encoder.safetensors", "training-log.jsonl")  # fmt: skip
_REMEDY = "name another output, or add replace=true to write over it"


def check_free(manifest: TrainManifest) -> None:
    """Refuse an output that is not this training's, nor an earlier one's of the same task, unless it may be replaced.

    Raises:
        RunConflictError: says what is there.
    """
    for output, task in outputs(manifest):
        output.check(for_writing=True)
        told = _told(output, "training.json")
        # Without it, a config of the same task is what an interrupted run left: that comes first, training.json last.
        known = _told(output, "config.json") if told is None else told
        there = next((name for name in _WRITTEN if output.exists(name)), None) if told is None else "training.json"
        ours = known is not None and known.get("task") == task and "training_sha256" in known
        if there and not ours and not manifest.replace:
            of = f"{known['task']}'s" if known and "task" in known else "no training's of this project"
            raise RunConflictError(f"{output.uri(there)} is there, and {of}; {_REMEDY}")


def finished(manifest: TrainManifest, recipe: str) -> dict[str, Any] | None:
    """The summary of an earlier run of the same recipe; None where there is none.

    Raises:
        RunConflictError: another recipe's result is there, and may not be replaced.
    """
    found = []
    for output, _ in outputs(manifest):
        told = _told(output, "training.json")
        found.append(told if told is not None and told.get("training_sha256") == recipe else None)
        if told is not None and told.get("training_sha256") != recipe and not manifest.replace:
            steps = f"{told['steps']} steps, " if "steps" in told else ""
            raise RunConflictError(
                f"{output.uri()}: was trained with other settings or data ({steps}recipe "
                f"{str(told.get('training_sha256'))[:12]}, now {recipe[:12]}); {_REMEDY}"
            )
    return None if None in found else found[0]


def outputs(manifest: TrainManifest) -> list[tuple[Store, str | None]]:
    """Where weights go, and the task that they are of: the first holds the summary of all."""
    root = Store.open(manifest.output, manifest.storage)
    if not manifest.tasks:
        return [(root, manifest.task)]
    each = [(Store.open(f"{manifest.output}/{name}", manifest.storage), name) for name in manifest.names]
    return [(root, "+".join(manifest.names)), *each]


@contextmanager
def one_at_a_time(manifest: TrainManifest) -> Iterator[None]:
    """Hold the lease of this training's checkpoints for the block: two would mix their logs and remove their files.

    Raises:
        LeaseError: another process trains the same, or took it over.
    """
    name = "+".join(manifest.names) or manifest.model
    store = Store.open(f"{manifest.checkpoint.uri}/{name}", manifest.storage)
    overtaken = LeaseError(f"{store.uri()}: another process trains this now; this one stopped")
    with _interruption(overtaken) as stop, held(store, stop):
        yield


@contextmanager
def _interruption(error: BaseException) -> Iterator[Callable[[], None]]:
    """Give a function that, called from another thread, raises the error in the block, whatever that waits for.

    By a signal of its own: SIGINT is ignored in what a shell started in the background. Outside the main thread, which
    alone gets signals, the function does nothing; the lease tells at its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    block, inside = threading.Lock(), True

    def interrupt() -> None:
        with block:
            if inside:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    def raise_it(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR2, raise_it)
    try:
        yield interrupt
    finally:
        with block:
            inside = False
        signal.signal(signal.SIGUSR2, before)


def _told(output: Store, name: str) -> dict[str, Any] | None:
    """A JSON object of the output; empty where the file is none, None where there is no file."""
    if not output.exists(name):
        return None
    try:
        told = json.loads(output.read(name))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
