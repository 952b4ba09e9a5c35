"""Carry out decisions: read again, restore, check, encode, write, and only then commit the ledger part.

Units may be given to one stage from several threads: one is restored while others are read and written.
A unit's images all have one route; without a route nothing is restored, and images are copied or set aside. Bad images
become rows. Does NOT know Ray, the router, or where the decisions came from.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fdi_lib.core.decision import Decision, Mode, Restored, parse_composition
from fdi_lib.core.gates import Gate, plausible, sound
from fdi_lib.core.noise import noise_key
from fdi_lib.errors import ItemError
from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import LEDGER, SCHEMA_VERSION, Reason, Status
from fdi_lib.storage.decoder import Decoder
from fdi_lib.storage.images import DecodedImage, encode
from fdi_lib.storage.outputs import Outputs, output_name, renamed, safe_name
from fdi_lib.storage.provenance import Label, timestamp
from fdi_lib.storage.sources import IMAGE_EXTENSIONS, read_image
from fdi_lib.storage.store import Store

# Nothing is wrong with such an image: the file that was to be written can't hold it.
_NO_ROOM = (Reason.UNSUPPORTED_PIXELS, Reason.UNSUPPORTED_METADATA)
_READERS = 4  # threads that read ahead inside one unit

Row = dict[str, Any]


class ImageRestorer(Protocol):
    """What this stage asks of a restorer."""

    adapter_hashes: dict[str, str]

    @property
    def loads(self) -> int:
        """Adapters read from disk so far."""

    def steps_of(self, decision: Decision) -> int:
        """Return the sampling steps that a decision takes."""

    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[Restored]:
        """Return images of the same shapes and dtypes, each with what was done; None where one came out not finite."""


class Restore:
    """Units of decision rows in, counts out; the images and their ledger rows are in the output.

    Args:
        manifest: the resolved manifest.
        run: run.json's content.
        load: makes the restorer, called once; None for a worker that finishes only units without a route.
    """

    def __init__(
        self, manifest: RestoreManifest, run: dict[str, Any], load: Callable[[], ImageRestorer] | None = None
    ) -> None:
        self.manifest, self.run = manifest, run
        self.source = Store.open(manifest.source.uri, manifest.source.storage)
        output = manifest.output
        self.outputs = Outputs(Store.open(output.uri, output.storage), run, output.layout)
        self.restorer = load() if load else None
        self._decoder = Decoder(manifest.limits)
        self._one_at_a_time = threading.Lock()  # whoever has the model
        self.worker = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, unit: pa.Table, attempt: int) -> dict[str, Any]:
        """Finish a unit of one route and commit it.

        Returns:
            ``images``, ``source_bytes``, one count per status, ``loads`` of adapters, ``seconds`` by step (read, wait
            for the model, restore, write), and ``changed``: ids of images whose bytes are not those decided on; they
            have no row yet.
        """
        clock = _Clock()
        decided = unit.to_pylist()
        with ThreadPoolExecutor(_READERS) as pool:
            read = list(zip(decided, pool.map(self._read, decided), strict=True))
            changed = [row["image_id"] for row, data in read if _has_changed(data)]
            rows = [self.ledger_row(row, attempt) for row, data in read if not _has_changed(data)]
            sources = [data for _, data in read if not _has_changed(data)]
            results = self._decode(rows, sources)
            clock.lap("read")
            with self._one_at_a_time if self.restorer else nullcontext():
                clock.lap("wait")
                loads = self._restore(rows, results)
                clock.lap("restore")
            rows = list(pool.map(lambda item: self._write(*item), zip(rows, sources, results, strict=True)))
        share = (sum(clock.seconds.values()) - clock.seconds["wait"]) / max(1, len(rows))
        rows = [row | {"seconds": row["seconds"] + share} for row in rows]
        self.outputs.commit(rows, attempt)
        clock.lap("write")
        counts = Counter(row["status"] for row in rows)
        return {
            "images": len(rows),
            "source_bytes": sum(row["source_bytes"] or 0 for row in rows),
            **{status.value: counts[status] for status in Status},
            "loads": loads,
            "seconds": clock.seconds,
            "changed": changed,
        }

    def ledger_row(self, row: Row, attempt: int) -> Row:
        """Return what the ledger will hold of a decided row, before anything is done."""
        blank = dict.fromkeys(LEDGER.names) | {"adapters": [], "gates": [], "output_uri": "", "output_sha256": ""}
        known = {name: row[name] for name in LEDGER.names if name in row}
        spent = (row["decode_s"] or 0.0) + (row["classify_s"] or 0.0)
        return blank | known | {
            "schema_version": SCHEMA_VERSION, "seconds": spent, "attempt": attempt, "worker": self.worker,
        }  # fmt: skip

    def _read(self, row: Row) -> bytes | ItemError | None:
        """Return the bytes the decision was made on, why they can't be had, or None where they aren't needed."""
        if row["status"] in (Status.FAILED, Status.REVIEW):
            return None
        try:
            data = read_image(self.source, row)
        except ItemError as error:
            return error
        if hashlib.sha256(data).hexdigest() != row["source_sha256"]:
            return ItemError(Reason.SOURCE_CHANGED, "other bytes than when it was classified")
        return data

    def _decode(self, rows: list[Row], sources: list[bytes | ItemError | None]) -> list[_Candidate | ItemError | None]:
        """Decode each image that has a route and could be read."""
        results: list[_Candidate | ItemError | None] = [None] * len(rows)
        for index, (row, data) in enumerate(zip(rows, sources, strict=True)):
            if row["route"] and isinstance(data, bytes):
                try:
                    results[index] = _Candidate(self._decoder.image(data))
                except ItemError as error:
                    results[index] = error
        return results

    def _restore(self, rows: list[Row], results: list[_Candidate | ItemError | None]) -> int:
        """Restore all that was decoded, at once; rows and candidates say what was done. Returns the adapters loaded."""
        items = [(row, found) for row, found in zip(rows, results, strict=True) if isinstance(found, _Candidate)]
        if not items:
            return 0
        assert self.restorer, "a unit with a route on a worker without a restorer"
        loads = self.restorer.loads
        decisions = [_decision(row, self.manifest.restore.mode) for row, _ in items]
        seed, hashes = self.manifest.restore.seed, self.restorer.adapter_hashes
        keys = [noise_key(seed, row["source_sha256"]) for row, _ in items]
        made = self.restorer.restore_each([found.original.pixels for _, found in items], decisions, keys)
        for (row, found), one in zip(items, made, strict=True):
            found.made, done = one, one.decision
            named = [{"name": name, "weight": weight, "sha256": hashes[name]} for name, weight in done.adapters]
            row |= {"adapters": named, "seed": seed, "steps": self.restorer.steps_of(done)}
            row |= {"composition": done.composition, "detail": _joined(row["detail"], one.note)}
        return self.restorer.loads - loads

    def _write(self, row: Row, source: bytes | ItemError | None, result: _Candidate | ItemError | None) -> Row:
        """Write what became of an image; return its finished row."""
        try:
            for problem in (source, result):
                if isinstance(problem, ItemError):
                    raise problem
            row = self._finish(row, source, result)  # type: ignore[arg-type]
        except ItemError as error:
            row = self._set_aside(row, source, error)
        if row["attempt"] > 1:
            self.outputs.settle(row)
        return row

    def _set_aside(self, row: Row, source: bytes | ItemError | None, error: ItemError) -> Row:
        """Write an image for which something went wrong: kept, for review, or failed."""
        row = row | {"reason": error.reason, "detail": error.detail}
        if error.reason in _NO_ROOM and isinstance(source, bytes):
            return self._write(row | {"status": Status.KEPT}, source, None)
        row |= {"status": Status.FAILED, "output_uri": "", "output_sha256": "", "output_bytes": None}
        self.outputs.failed(row)
        return row

    def _finish(self, row: Row, source: bytes | None, candidate: _Candidate | None) -> Row:
        if row["status"] == Status.FAILED:
            self.outputs.failed(row)
            return row
        if row["status"] == Status.REVIEW:
            return self.outputs.for_review(row, safe_name(row), None)
        name = output_name(row["image_id"], row["shard"])
        assert source is not None
        if candidate is None:
            return self.outputs.image(row, name, source)
        gates = candidate.gates(self.manifest.gates.enabled)
        failed = ", ".join(gate.name for gate in gates if not gate.ok)
        row = row | {"gates": [gate._asdict() for gate in gates]}
        if candidate.pixels is None:
            detail = _joined(row["detail"], "the model gave values that are not finite")
            return self._refused(row | {"reason": Reason.BAD_OUTPUT, "detail": detail}, source, None)
        if failed:
            row = row | {"reason": Reason.GATE, "detail": _joined(row["detail"], f"refused by: {failed}")}
        if not gates[1].ok:  # of another size or kind: no file of the source's kind can hold it
            return self._refused(row, source, None)
        data, extension = encode(candidate.original, candidate.pixels, self.manifest.output.image, self._label(row))
        name = renamed(name, extension, bool(extension) and self._is_taken(row, name, extension))
        if failed:
            return self._refused(row, source, data, name)
        return self.outputs.image(row | {"status": Status.RESTORED}, name, data)

    def _refused(self, row: Row, source: bytes | ItemError | None, candidate: bytes | None, name: str = "") -> Row:
        """A candidate that may do harm: the original is kept, or a person decides."""
        if self.manifest.gates.on_fail == "keep_original" and isinstance(source, bytes):
            kept = row | {"status": Status.KEPT, "reason": Reason.GATE}
            return self.outputs.image(kept, output_name(row["image_id"], row["shard"]), source)
        return self.outputs.for_review(row | {"status": Status.REVIEW}, name or safe_name(row), candidate)

    def _is_taken(self, row: Row, name: str, extension: str) -> bool:
        """Whether another image of the source could get the same name (the answer does not depend on order)."""
        stem = name.rpartition(".")[0]
        if row["shard"]:
            return (
                False  # members that differ in their extension only are told apart in their shard (storage/rivals.py)
            )
        suffixes = {*IMAGE_EXTENSIONS, extension.lstrip(".")}
        others = {f"{stem}.{suffix}" for known in suffixes for suffix in (known, known.upper())} - {name}
        return any(self.source.exists(other) for other in sorted(others))

    def _label(self, row: Row) -> Label:
        return Label(
            source_uri=row["source_uri"],
            source_sha256=row["source_sha256"],
            composition=row["composition"],
            software="fdi-restore",
            version=self.run["versions"]["fdi-restore"] or "",
            when=timestamp(self.run["started"]),
        )


class _Candidate:
    """A picture, and beside it what the model made of it."""

    def __init__(self, original: DecodedImage) -> None:
        self.original = original
        self.made: Restored  # set by the model

    @property
    def pixels(self) -> np.ndarray | None:
        """The restored picture; None where it came out not finite."""
        return self.made.pixels

    def gates(self, all_gates: bool) -> list[Gate]:
        """What is checked: soundness always; whether it is plausible where the manifest wants it."""
        gates = sound(self.original.pixels, self.pixels, self.made.finite)
        if all_gates and self.pixels is not None and all(gate.ok for gate in gates):
            gates += plausible(self.original.pixels, self.pixels, [name for name, _ in self.made.decision.adapters])
        return gates


class _Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """End a step."""
        now = time.perf_counter()
        self.seconds[step], self._last = now - self._last, now


def _has_changed(source: bytes | ItemError | None) -> bool:
    return isinstance(source, ItemError) and source.reason == Reason.SOURCE_CHANGED


def _joined(*texts: str | None) -> str:
    return "; ".join(text for text in texts if text)


def _decision(row: Row, mode: Mode) -> Decision:
    """The decision as its row holds it: what is restored follows from the ledger alone."""
    adapters, written = parse_composition(row["composition"])
    return Decision(
        verdict=row["verdict"],
        adapters=adapters,
        mode=written if len(adapters) > 1 else mode,
        scores=dict(row["scores"] or []),
        residual=row["residual"] or 0.0,
    )
