"""``fdi verify``: accounting and fixity, re-read from storage: the source, the ledger, and every output's bytes.

Streams the source and the outputs; holds ids and hashes, never pictures. Mends nothing. Does NOT know how rows came
about.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from fdi_lib.errors import ItemError
from fdi_lib.manifest import StorageSettings
from fdi_lib.records import Status
from fdi_lib.storage import ledger
from fdi_lib.storage.assemble import companion_path, contents
from fdi_lib.storage.layouts import read_shard, shard_path
from fdi_lib.storage.outputs import DELIVERED, safe_name
from fdi_lib.storage.provenance import sidecar
from fdi_lib.storage.run import RUN_FILE, Run, load_run_at
from fdi_lib.storage.sources import list_objects, read_images
from fdi_lib.storage.store import UNFINISHED, Store, extension
from jobs.failed import printable

_COLUMNS = ["image_id", "shard", "source_uri", "source_sha256", "status", "attempt"]
_COLUMNS += ["output_uri", "output_sha256", "output_bytes"]
_OBJECTS_PER_BLOCK = 1000
# What lies at the top of an output, and how its names end.
_OWN = {
    "images": "",
    "shards": "",
    "_control": "",
    "report": "",
    "ledger": ".parquet",
    RUN_FILE: "",
    "plan.parquet": "",
    UNFINISHED.rstrip("/"): "",
}
# What a sidecar and a row both hold. ``run`` is run.json's; ``output.name`` is where it was before it was in a shard.
_SIDECAR_FACTS = ("image_id", "source", "outcome", "classification", "restoration", "gates", "output")
_SIDECAR_ONLY = ("output.name",)


class Difference(NamedTuple):
    """One thing that isn't as the ledger says."""

    what: str
    name: str
    detail: str = ""


def run(output: str, storage: StorageSettings, source_bytes: bool = True) -> dict[str, Any]:
    """Compare source, ledger and outputs of the run at ``output``.

    Args:
        output: URI of the run's output.
        storage: how to reach it.
        source_bytes: read and hash the sources, too; otherwise only what is listed is compared.

    Returns:
        ``output, finished, images`` (in the source), ``rows``, ``differences`` (their number) and ``found``: each
        difference as ``what, name, detail``.

    Raises:
        RunConflictError: no run there.
    """
    found = load_run_at(output, storage)
    whole = ledger.load_effective(found.store)
    rows = {row["image_id"]: row | {"at": at} for at, row in enumerate(whole.select(_COLUMNS).to_pylist())}
    sidecars = Sidecars(whole, found.info)
    images, differences = _check_source(found, rows, source_bytes)
    differences += _check_rows(found.store, rows)
    carried = _companions(found)
    differences += _check_outputs(found, rows, carried, sidecars)
    differences += _check_strangers(found.store, rows, found.info["manifest"]["output"]["layout"], carried)
    return {
        "output": found.store.uri(),
        "finished": found.info["finished"],
        "images": images,
        "rows": len(rows),
        "differences": len(differences),
        "found": [difference._asdict() for difference in differences],
    }


class Sidecars:
    """Compares sidecars with the ledger.

    Args:
        rows: all effective rows, with all columns.
        run: run.json's content.
    """

    def __init__(self, rows: pa.Table, run: dict[str, Any]) -> None:
        self._rows, self._run = rows, run

    def compare(self, row: dict[str, Any], data: bytes) -> Iterator[Difference]:
        """Name each fact of a sidecar that its row doesn't say as well."""
        try:
            told = json.loads(data)
        except ValueError as error:
            yield Difference("sidecar can't be read", row["image_id"], str(error))
            return
        (full,) = self._rows.slice(row["at"], 1).to_pylist()
        expected = _facts(json.loads(sidecar(full, self._run)))
        found = _facts(told if isinstance(told, dict) else {})
        for key in sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)):
            detail = f"{key} is {json.dumps(found.get(key))}, in the ledger {json.dumps(expected.get(key))}"
            yield Difference("sidecar differs from the ledger", row["image_id"], detail)


def _facts(document: dict[str, Any]) -> dict[str, Any]:
    """The comparable part of a sidecar, one level of dotted keys."""
    found: dict[str, Any] = {}
    for section in _SIDECAR_FACTS:
        value = document.get(section)
        inner = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{section}.{key}".rstrip("."): fact for key, fact in inner}
    return {key: fact for key, fact in found.items() if key not in _SIDECAR_ONLY}


def _check_source(found: Run, rows: dict[str, dict[str, Any]], with_bytes: bool) -> tuple[int, list[Difference]]:
    """Every source image has a row, every row a source image, and the bytes are those that were decided on."""
    source = found.source
    store, seen, differences = Store.open(source.uri, source.storage), set(), []
    for block in list_objects(source, _OBJECTS_PER_BLOCK, found.store.uri()):
        for entry in block:
            for reference, data in read_images(store, source, entry, with_bytes):
                image_id = reference["image_id"]
                if image_id in seen:
                    differences.append(Difference("name twice in the source", image_id))
                seen.add(image_id)
                row = rows.get(image_id)
                if row is None:
                    differences.append(Difference("source image without a row", image_id))
                elif isinstance(data, ItemError):
                    if row["status"] != Status.FAILED:
                        differences.append(Difference("source can't be read any more", image_id, str(data)))
                elif with_bytes and row["source_sha256"] and _sha256(data) != row["source_sha256"]:
                    differences.append(Difference("source changed after its row", image_id))
    differences += [Difference("row without a source image", image_id) for image_id in sorted(rows.keys() - seen)]
    return len(seen), differences


def _check_rows(store: Store, rows: dict[str, dict[str, Any]]) -> Iterator[Difference]:
    """Each row agrees with itself, and failed and review images have their JSON."""
    for image_id, row in rows.items():
        status = row["status"]
        if status in DELIVERED and not row["output_uri"]:
            yield Difference("no output recorded", image_id, status)
        if status == Status.FAILED and row["output_uri"]:
            yield Difference("failed, but has an output", image_id, row["output_uri"])
        if status in (Status.CLEAN, Status.KEPT) and row["output_sha256"] != row["source_sha256"]:
            yield Difference("not a byte copy of its source", image_id, status)
        if status in (Status.FAILED, Status.REVIEW) and not store.exists(f"{status}/{safe_name(row)}.json"):
            yield Difference(f"no JSON in {status}/", image_id)


def _companions(found: Run) -> dict[str, str]:
    """Hashes of what is to be carried over, by where it should be: a path, or ``path#member``."""
    layout, source = found.info["manifest"]["output"]["layout"], found.source
    store, hashes = Store.open(source.uri, source.storage), {}
    for block in list_objects(source, _OBJECTS_PER_BLOCK, found.store.uri()) if source.format != "inventory" else ():
        for entry in block:
            if extension(entry.path) != "tar":
                continue
            there = contents(store, source, entry)
            for other in there.companions:
                if layout == "files":
                    place = companion_path(there.folder, other.name)
                else:
                    place = f"{shard_path(store, there.shard, layout)}#{other.name}"
                hashes[place] = _sha256(other.read())
    return hashes


def _check_outputs(
    found: Run, rows: dict[str, dict[str, Any]], carried: dict[str, str], sidecars: Sidecars
) -> Iterator[Difference]:
    """Every recorded output is there with size and hash, and a sidecar that says the same."""
    store = found.store
    in_shards = f"{store.uri('shards')}/"
    expected = {row["output_uri"]: row for row in rows.values() if row["output_uri"]}
    if found.info["manifest"]["output"]["layout"] == "files":
        yield from _check_files(store, expected, carried, sidecars)
        return
    members = {uri: row for uri, row in expected.items() if uri.startswith(in_shards)}
    others = {uri: row for uri, row in expected.items() if uri not in members}
    yield from _check_files(store, others, {}, sidecars)
    yield from _check_shards(store, members, carried, sidecars)


def _check_files(
    store: Store, expected: dict[str, dict[str, Any]], carried: dict[str, str], sidecars: Sidecars
) -> Iterator[Difference]:
    for path, digest in carried.items():
        if not store.exists(path):
            yield Difference("not carried over", path)
        elif _sha256(store.read(path)) != digest:
            yield Difference("carried over with other bytes", path)
    for uri, row in expected.items():
        place, path = store.at(uri)
        if place is not store:
            yield Difference("output lies outside the run", row["image_id"], uri)
            continue
        try:
            data = store.read(path)
        except FileNotFoundError:
            yield Difference("output is missing", row["image_id"], path)
            continue
        yield from _compare(row, data)
        if row["status"] not in DELIVERED:  # a candidate for review: its JSON is looked for with its row
            continue
        try:
            yield from sidecars.compare(row, store.read(f"{path}.json"))
        except FileNotFoundError:
            yield Difference("sidecar is missing", row["image_id"], f"{path}.json")


def _check_shards(
    store: Store, expected: dict[str, dict[str, Any]], carried: dict[str, str], sidecars: Sidecars
) -> Iterator[Difference]:
    known = {store.uri(place): digest for place, digest in carried.items()}
    missing = {*expected, *known, *(f"{uri}.json" for uri in expected)}
    for entry in store.walk("shards/"):
        try:
            for name, data in read_shard(store, entry.path):
                uri = f"{store.uri(entry.path)}#{name}"
                if uri in expected:
                    yield from _compare(expected[uri], data)
                elif (described := expected.get(uri.removesuffix(".json"))) is not None:
                    yield from sidecars.compare(described, data)
                elif uri in known and _sha256(data) != known[uri]:
                    yield Difference("carried over with other bytes", uri)
                elif uri not in missing:
                    yield Difference("nothing in the ledger names this member", uri)
                missing.discard(uri)
        except ItemError as error:
            yield Difference("output can't be read", store.uri(entry.path), str(error))
    for uri in sorted(missing):
        sidecar_of = expected.get(uri.removesuffix(".json"))
        if uri in expected:
            yield Difference("output is missing", expected[uri]["image_id"], uri)
        elif uri in known or sidecar_of is None:
            yield Difference("not carried over", uri)
        else:
            yield Difference("sidecar is missing", sidecar_of["image_id"], uri)


def _check_strangers(
    store: Store, rows: dict[str, dict[str, Any]], layout: str, carried: Mapping[str, str]
) -> Iterator[Difference]:
    """Nothing lies in the output that no run would put there; what is in shards was looked at already."""
    unused = "shards" if layout == "files" else ""
    known = {f"{row['status']}/{safe_name(row)}.json" for row in rows.values() if row["status"] not in DELIVERED}
    outputs = {row["output_uri"].removeprefix(store.uri("")).lstrip("/") for row in rows.values()}
    known |= outputs
    delivered = outputs | {f"{path}.json" for path in outputs} | carried.keys()
    for entry in store.walk():
        folder = entry.path.partition("/")[0]
        ours = _OWN.get(folder, "?") if folder != unused else "?"
        if folder in ("review", "failed"):
            ours = entry.path if entry.path in known else "?"
        if folder == "images" and entry.path not in delivered:
            yield Difference("nothing in the ledger names this file", entry.path)
        elif not entry.path.endswith(ours):
            yield Difference("no run puts this here", entry.path)


def _compare(row: dict[str, Any], data: bytes) -> Iterator[Difference]:
    if len(data) != row["output_bytes"]:
        yield Difference("output has another size", row["image_id"], f"{len(data)} bytes, not {row['output_bytes']}")
    elif _sha256(data) != row["output_sha256"]:
        yield Difference("output has another hash", row["image_id"], row["output_uri"])


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def text(summary: dict[str, Any]) -> str:
    """Each difference on a line, and what was compared."""
    lines = [f"{d['what']}: {printable(d['name'])}  {printable(d['detail'])}".rstrip() for d in summary["found"]]
    state = "" if summary["finished"] else "; this run is not finished"
    counts = f"{summary['images']:,} images in the source, {summary['rows']:,} rows"
    return "\n".join([*lines, f"{counts}, {summary['differences']:,} differences{state}"])


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["verify", *sys.argv[1:]]))
