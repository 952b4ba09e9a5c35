"""``fdi report``: one static page about a run, OUTPUT/report/index.html, that needs nothing else to be looked at.

Made from the ledger, ``run.json`` and at most 60 pictures read back from storage. File names come from strangers: the
template escapes everything, and the page forbids itself any script. Does NOT know Ray or models.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fdi_lib.errors import ItemError
from fdi_lib.manifest import RestoreManifest, StorageSettings
from fdi_lib.records import Status
from fdi_lib.storage import ledger
from fdi_lib.storage.decoder import Decoder
from fdi_lib.storage.layouts import read_output
from fdi_lib.storage.run import Run, load_run_at
from fdi_lib.storage.sources import read_image, read_images
from fdi_lib.storage.store import ObjectEntry, Store
from jobs.failed import printable

PAGE = "report/index.html"
MAX_PICTURES = 60  # some 2 MB of page
MAX_LISTED = 100
MAX_UNCERTAIN = 12
_THUMBNAIL_PX = 320
_THUMBNAIL_S = 20.0  # longest time for one; a file that takes longer is shown as an empty frame
_CANDIDATES = 200  # of a stratum, considered for the sample
_COLUMNS = [
    "image_id", "shard", "source_uri", "source_bytes", "status", "reason", "detail",
    "route", "composition", "residual", "gates", "output_uri",
]  # fmt: skip
_LABELS = {
    Status.RESTORED: "restored",
    Status.CLEAN: "clean, copied",
    Status.KEPT: "kept as they are",
    Status.REVIEW: "wait for review",
    Status.FAILED: "failed",
}


def run(output: str, storage: StorageSettings) -> dict[str, Any]:
    """Build the page of the run at ``output`` and return ``{"output", "report", "images", "pictures"}``.

    Raises:
        RunConflictError: no run there.
    """
    found = load_run_at(output, storage)
    rows = ledger.load_effective(found.store, columns=_COLUMNS)
    pictures = _pictures(found, _sample(rows.filter(pc.not_equal(rows["status"], Status.FAILED.value)), MAX_PICTURES))
    found.store.replace(PAGE, render(found.info, rows, pictures, found.store.uri()).encode())
    return {
        "output": found.store.uri(),
        "report": found.store.uri(PAGE),
        "images": rows.num_rows,
        "pictures": sum(len(group["items"]) for group in pictures),
    }


def render(info: dict[str, Any], rows: pa.Table, pictures: list[dict[str, Any]], output: str) -> str:
    """The page as HTML.

    Args:
        info: content of ``run.json``.
        rows: effective ledger rows.
        pictures: ``[{"status", "route", "items": [{"row", "before", "after"}]}]``, JPEGs in base64 or "".
        output: the output's URI.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=printable, spaced=_spaced, number=lambda value: f"{value:,}")
    total, counts = rows.num_rows, Counter(rows["status"].to_pylist())
    problems = {status: _listed(rows, status) for status in (Status.FAILED, Status.REVIEW)}
    return environment.get_template("report.html.j2").render(
        info=info,
        output=output,
        total=total,
        statuses=[(s.value, _LABELS[s], counts[s.value], 100 * counts[s.value] / max(total, 1)) for s in Status],
        applied=_applied(rows),
        reasons=_reasons(rows),
        gates=_gates(rows),
        pictures=pictures,
        problems=[(s.value, _LABELS[s], counts[s.value], listed) for s, listed in problems.items() if listed],
        uncertain=_uncertain(rows),
        hashes=_hashes(info["models"]),
    )


def _applied(rows: pa.Table) -> list[tuple[str, str, int]]:
    """(route, its most frequent composition, images) of what was restored, most frequent first."""
    restored = rows.filter(pc.equal(rows["status"], Status.RESTORED.value))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for route, composition in zip(restored["route"].to_pylist(), restored["composition"].to_pylist(), strict=True):
        counts[route][composition] += 1
    found = [(route, min(c, key=lambda name: (-c[name], name)), c.total()) for route, c in counts.items()]
    return sorted(found, key=lambda item: (-item[2], item[0]))


def _reasons(rows: pa.Table) -> list[tuple[str, str, int]]:
    """(status, reason, count), most frequent first."""
    pairs = zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    counts = Counter(pair for pair in pairs if pair[1])
    return [(*pair, count) for pair, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _gates(rows: pa.Table) -> list[tuple[str, int, int, str, str]]:
    """(gate, candidates checked, refused, values from-to, limits from-to), as far as there were candidates."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for gates in rows["gates"].to_pylist():
        for gate in gates or []:
            found[gate["name"]].append(gate)
    rows_of = []
    for name, seen in found.items():
        values, limits = (_range([gate[key] for gate in seen]) for key in ("value", "limit"))
        rows_of.append((name, len(seen), sum(not gate["ok"] for gate in seen), values, limits))
    return rows_of


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _listed(rows: pa.Table, status: Status) -> list[dict[str, Any]]:
    some = rows.filter(pc.equal(rows["status"], status.value))
    return some.sort_by([("reason", "ascending"), ("image_id", "ascending")]).slice(0, MAX_LISTED).to_pylist()


def _uncertain(rows: pa.Table) -> list[dict[str, Any]]:
    """The restored images whose damage the references explain least."""
    restored = rows.filter(pc.equal(rows["status"], Status.RESTORED.value))
    return restored.sort_by([("residual", "descending"), ("image_id", "ascending")]).slice(0, MAX_UNCERTAIN).to_pylist()


def _hashes(models: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested facts about the models as rows of (name, value)."""
    found = []
    for name, value in models.items():
        found += _hashes(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def _sample(rows: pa.Table, most: int) -> list[dict[str, Any]]:
    """At most ``most`` rows, in turn from each stratum (status, route); the same for the same ledger.

    Within a stratum, rows whose shard is read anyway come first: a shard is read from its start.
    """
    strata: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows.to_pylist(), key=_draw):
        stratum = strata[_stratum(row)]
        if len(stratum) < _CANDIDATES:
            stratum.append(row)
    chosen: list[dict[str, Any]] = []
    shards: set[str] = set()
    while len(chosen) < most and any(strata.values()):
        for _, stratum in sorted(strata.items()):
            if stratum and len(chosen) < most:
                row = min(stratum, key=lambda r: (bool(r["shard"]) and r["shard"] not in shards, _draw(r)))
                stratum.remove(row)
                shards.add(row["shard"])
                chosen.append(row)
    return chosen


def _draw(row: dict[str, Any]) -> bytes:
    return hashlib.sha256(row["image_id"].encode("utf-8", "surrogateescape")).digest()


def _stratum(row: dict[str, Any]) -> tuple[str, str]:
    return (row["status"], row["route"])


def _spaced(route: str) -> str:
    return route.replace(">", " > ").replace("+", " + ")


def _pictures(found: Run, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sample with its thumbnails, grouped by stratum: restored images first."""
    before = dict(_source_bytes(found, chosen))
    limits = RestoreManifest.model_validate(found.info["manifest"]).limits
    decoder = Decoder(limits.model_copy(update={"timeout_s": min(limits.timeout_s, _THUMBNAIL_S)}))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(chosen, key=lambda r: r["image_id"]):
        shown = row["status"] in (Status.RESTORED, Status.REVIEW) and row["output_uri"]
        after = read_output(found.store, row["output_uri"]) if shown else None
        item = {"row": row, "before": _inline(decoder, before.get(row["image_id"])), "after": _inline(decoder, after)}
        groups[_stratum(row)].append(item)
    order = {status.value: place for place, status in enumerate(Status)}
    ordered = sorted(groups.items(), key=lambda group: (order[group[0][0]], group[0][1]))
    return [{"status": status, "route": route, "items": items} for (status, route), items in ordered]


def _source_bytes(found: Run, chosen: Iterable[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """(image id, file bytes) of the chosen rows, as far as they can still be read."""
    source, by_shard = found.source, defaultdict(set)
    store = Store.open(source.uri, source.storage)
    for row in chosen:
        if row["shard"]:
            by_shard[row["shard"]].add(row["image_id"])
            continue
        whole = {"object": row["source_uri"], "kind": "file", "offset": 0, "length": row["source_bytes"], "row": -1}
        try:
            yield row["image_id"], read_image(store, {**row, **whole})
        except ItemError:
            continue  # the page shows an empty frame: a report must not fail because a source has gone
    for shard, wanted in by_shard.items():
        size = store.size(shard)
        if size is None:
            continue
        for reference, data in read_images(store, source, ObjectEntry(shard, size, "")):
            if reference["image_id"] in wanted and isinstance(data, bytes):
                yield reference["image_id"], data
                wanted.discard(reference["image_id"])
                if not wanted:
                    break


def _inline(decoder: Decoder, data: bytes | None) -> str:
    if data is None:
        return ""
    try:
        return base64.b64encode(decoder.thumbnail(data, _THUMBNAIL_PX)).decode()
    except ItemError:
        return ""


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["report", *sys.argv[1:]]))
