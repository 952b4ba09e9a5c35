"""Reference pairs to moments, at any scale, on Ray Data: list, read and check, encode, reduce; memory stays constant.

One streaming task lists pairs in units; tasks read, check and look at a unit's pairs; actors encode them; tasks reduce
many units to one part (see :class:`fdi_lib.core.moments.PairMoments`); the driver merges parts as they come and never
sees a picture or a feature. A part that is lost is computed again, and parts merge in any order. Does NOT know banks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from fdi_lib.core.batches import pack, unpack
from fdi_lib.core.moments import PairMoments, merged
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.manifest import Pools, StorageSettings
from fdi_lib.storage.pairs import Form, PairRef, Side, Unpaired, list_pairs, read_pairs
from fdi_lib.storage.store import Store
from fdi_lib.training.pair_checks import PairReport, check_pair, compare_all
from fdi_lib.training.pairs import place_of
from jobs.read_tasks import ReadTasks

_GIB = 2**30
_SIDE = pa.struct([(n, pa.int64() if n in ("offset", "length", "row") else pa.string()) for n in Side.__annotations__])
_REF = pa.schema([("name", pa.string()), ("degraded", _SIDE), ("clean", _SIDE), ("detail", pa.string())])
_TEXTS = pa.list_(pa.string())
_REPORT = pa.schema([
    ("name", pa.string()), ("reasons", _TEXTS), ("remarks", _TEXTS), ("width", pa.int32()), ("height", pa.int32()),
    ("shift_px", pa.list_(pa.float64())), ("exposure_ev", pa.float64()), ("psnr_db", pa.float64()),
    ("degraded_hash", pa.string()), ("clean_hash", pa.string()), ("group", pa.string()),
])  # fmt: skip
# Features of a unit: names of its kept pairs, float32 N,D of either side, float64 T,E sum of token differences, both
# shapes, and the reports of all its pairs as one packed row.
FEATURES = pa.schema([
    ("names", _TEXTS), ("clean", pa.large_binary()), ("degraded", pa.large_binary()), ("tokens", pa.large_binary()),
    ("shape", pa.list_(pa.int64())), ("reports", pa.list_(pa.struct(list(_REPORT)))),
])  # fmt: skip
_PART = pa.schema([("moments", pa.large_binary()), FEATURES.field("reports")])


class EncoderLike(Protocol):
    """The part of ``Encoder`` that is used."""

    def tokens(self, views_BVHWC: np.ndarray) -> Any:
        """Views uint8 B,V,S,S,3 to tokens float32 B,L*T,D (a torch tensor)."""

    def pooled(self, tokens_BTD: Any) -> Any:
        """Tokens to pooled features B,L*D (torch tensors)."""


@dataclass(frozen=True)
class PairStream:
    """What is read, and how it is cut.

    Args:
        uri: folder, prefix or shard.
        form: pairs | shards.
        storage: how to reach it.
        spec: views that the encoder takes; None to check pairs only.
        smallest_px: pairs with a shorter side are left out.
        seed: key of the sample that is kept.
        sample: pairs kept as features at most, for calibration and prototypes.
        unit_pairs: pairs read and encoded at once.
        part_units: units reduced to one part.
        max_pixels_mp: limit for one picture, megapixels.
        places: pairs are used whose clean picture has its place (:func:`fdi_lib.training.pairs.place_of`) in [first,
            second); what is no pair is reported where 0 is among them. Every pair is read all the same.
    """

    uri: str
    form: Form
    storage: StorageSettings
    spec: ViewSpec | None
    smallest_px: int = 64
    seed: int = 0
    sample: int = 2048
    unit_pairs: int = 64
    part_units: int = 128
    max_pixels_mp: float = 400
    places: tuple[float, float] = (0.0, 1.0)


def pair_moments(
    settings: PairStream,
    load: Callable[[], EncoderLike],
    pools: Pools,
    on_reports: Callable[[list[PairReport]], None],
) -> PairMoments | None:
    """Read all pairs once and return the moments of their features; None where no pair is left.

    Args:
        settings: what is read.
        load: makes the encoder, in each actor.
        pools: ``decode`` is used for reading, ``classify`` for encoding.
        on_reports: is given the reports of all pairs, part by part, without set-level remarks; write them down.

    Raises:
        StorageRefusedError, StorageOutageError: as the store says.
    """
    Store.open(settings.uri, settings.storage).check()
    stream = (
        ray.data.read_datasource(ReadTasks([partial(_list, settings)]), num_cpus=0, override_num_blocks=1)
        .map_batches(
            partial(_look, settings),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=pools.decode.cpus,
            memory=pools.decode.memory_gib * _GIB,
        )
        .map_batches(
            _Encode,
            fn_constructor_args=(load, pools.classify.batch),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=pools.classify.min, max_size=pools.classify.max),
            num_cpus=pools.classify.cpus,
            num_gpus=pools.classify.gpus,
            memory=pools.classify.memory_gib * _GIB,
        )
    )
    return merged(parts(stream, settings.part_units, settings.sample, settings.seed, on_reports))


def pair_reports(settings: PairStream, pools: Pools) -> list[PairReport]:
    """Check all pairs, in parallel; set-level remarks and duplicates included, sorted by name.

    Raises:
        StorageRefusedError, StorageOutageError: as the store says.
    """
    Store.open(settings.uri, settings.storage).check()
    stream = ray.data.read_datasource(
        ReadTasks([partial(_list, settings)]), num_cpus=0, override_num_blocks=1
    ).map_batches(
        partial(_look, replace(settings, spec=None)),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=pools.decode.cpus,
        memory=pools.decode.memory_gib * _GIB,
    )
    found: list[PairReport] = []
    for table in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
        found += [_report(row) for rows, _ in unpack(table) for row in rows.to_pylist()]
    return compare_all(sorted(found, key=lambda report: report.name))


def parts(
    features: ray.data.Dataset,
    part_units: int,
    sample: int,
    seed: int,
    on_reports: Callable[[list[PairReport]], None] = lambda reports: None,
) -> Iterator[PairMoments]:
    """Reduce rows of ``FEATURES`` to parts, each of ``part_units`` rows, as they come."""
    reduced = features.map_batches(
        partial(_reduce, sample=sample, seed=seed),
        batch_size=part_units,
        batch_format="pyarrow",
        num_cpus=1,
        memory=_GIB,  # other needs than the stage before: or they would be one
    )
    for table in reduced.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in table.to_pylist():
            on_reports([_report(found) for found in row["reports"]])
            if row["moments"]:
                yield PairMoments.from_bytes(row["moments"])


def _list(settings: PairStream) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for found in list_pairs(settings.uri, settings.form, settings.storage):
        rows.append(asdict(found))
        if len(rows) == settings.unit_pairs:
            yield pack(pa.Table.from_pylist(rows, _REF))
            rows = []
    if rows:
        yield pack(pa.Table.from_pylist(rows, _REF))


def _look(settings: PairStream, table: pa.Table) -> Iterator[pa.Table]:
    """Read and check a unit's pairs; yield their reports, and views of the kept ones: degraded, clean, degraded ..."""
    store, (low, high) = Store.open(settings.uri, settings.storage), settings.places
    for rows, _ in unpack(table):
        found = [_listed(row) for row in rows.to_pylist()]
        told = found if low == 0 else []
        reports = [PairReport(item.name, (item.detail,)) for item in told if isinstance(item, Unpaired)]
        views: list[np.ndarray] = []
        spec = settings.spec
        for read in read_pairs(store, [item for item in found if isinstance(item, PairRef)]):
            report, pair = check_pair(read, settings.smallest_px, settings.max_pixels_mp)
            # Pairs of one clean picture share a place, whatever their names.
            if not low <= place_of(report.clean_hash or report.name, settings.seed) < high:
                continue
            reports.append(report)
            views += [make_views(side, spec) for side in pair or ()] if spec else []
        packed = pa.Table.from_pylist([asdict(report) for report in reports], _REPORT)
        yield pack(packed, np.stack(views) if views else np.zeros((0, 1), np.uint8))


class _Encode:
    """Encode views of pairs; loads the encoder once an actor."""

    def __init__(self, load: Callable[[], EncoderLike], batch: int) -> None:
        self._encoder, self._batch = load(), batch

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = [self._features(reports, views) for reports, views in unpack(table) if views is not None]
        return pa.Table.from_pylist(rows, FEATURES)

    def _features(self, reports: pa.Table, views: np.ndarray) -> dict[str, Any]:
        found = reports.to_pylist()
        sums: Any = 0.0
        q: list[np.ndarray] = []
        step = max(2, self._batch // 2 * 2)  # both sides of a pair in one pass
        for start in range(0, len(views), step):
            tokens = self._encoder.tokens(views[start : start + step])
            q.append(self._encoder.pooled(tokens).numpy())
            sums = sums + (tokens[0::2] - tokens[1::2]).double().sum(0).numpy()
        names = [row["name"] for row in found if not row["reasons"]]
        return features_row(names, q, sums, found) if names else _NOTHING | {"reports": found}


_NOTHING: dict[str, Any] = {"names": [], "clean": b"", "degraded": b"", "tokens": b"", "shape": []}


def features_row(names: list[str], q: list[np.ndarray], token_sum_TE: np.ndarray, reports: list[Any]) -> dict[str, Any]:
    """A row of ``FEATURES``; ``q`` holds float32 pooled features, degraded and clean in turn."""
    both = np.concatenate(q).astype(np.float32, copy=False)
    return {
        "names": names,
        "clean": both[1::2].tobytes(),
        "degraded": both[0::2].tobytes(),
        "tokens": np.asarray(token_sum_TE, np.float64).tobytes(),
        "shape": [len(names), both.shape[1], *token_sum_TE.shape],
        "reports": reports,
    }


def _reduce(table: pa.Table, sample: int, seed: int) -> pa.Table:
    """Rows of ``FEATURES`` to one part. All rows at once: one product of matrices instead of many."""
    names: list[str] = []
    clean, degraded, tokens, reports = [], [], [], []
    for i in range(table.num_rows):
        reports += table["reports"][i].as_py()
        shape = table["shape"][i].as_py()
        if shape:
            names += table["names"][i].as_py()
            clean.append(np.frombuffer(table["clean"][i].as_buffer(), np.float32).reshape(shape[:2]))
            degraded.append(np.frombuffer(table["degraded"][i].as_buffer(), np.float32).reshape(shape[:2]))
            tokens.append(np.frombuffer(table["tokens"][i].as_buffer(), np.float64).reshape(shape[2:]))
    moments = b""
    if names:
        both = np.concatenate(clean), np.concatenate(degraded)
        moments = PairMoments.of(names, *both, np.sum(tokens, axis=0), sample, seed).to_bytes()
    return pa.Table.from_pylist([{"moments": moments, "reports": reports}], _PART)


def _listed(row: dict[str, Any]) -> PairRef | Unpaired:
    if row["detail"] is not None:
        return Unpaired(row["name"], row["detail"])
    return PairRef(row["name"], Side(**row["degraded"]), Side(**row["clean"]))


def _report(row: dict[str, Any]) -> PairReport:
    shift = row["shift_px"]
    report = PairReport(**(row | {"shift_px": None}))
    return replace(
        report,
        reasons=tuple(report.reasons),
        remarks=tuple(report.remarks),
        shift_px=None if shift is None else (shift[0], shift[1]),
    )
