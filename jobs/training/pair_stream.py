"""Reference pairs to moments, at any scale, on Ray Data: list, read and check, encode, reduce; memory stays constant.

One streaming task lists pairs in units; tasks read, check and look at a unit's pairs; actors encode them; tasks reduce
many units to one part (see :class:`fdi_lib.core.moments.PairMoments`); the driver merges parts as they come and never
sees a picture or a feature. A part that is lost is computed again, and parts merge in any order. Pairs that are held
out and pairs that are learnt from go through together, each pair once. Does NOT know banks.
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
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.manifest import Pools, StorageSettings
from fdi_lib.storage.pairs import Form, PairRef, Side, Unpaired, list_pairs, read_pairs
from fdi_lib.storage.store import Store
from fdi_lib.training.pair_checks import PairReport, check_pair, compare_all
from fdi_lib.training.pairs import place_of
from jobs.read_tasks import ReadTasks
from jobs.training.pair_features import FEATURES, REPORT, Split, features_row, parts, report_of

_GIB = 2**30
_SIDE = pa.struct([(n, pa.int64() if n in ("offset", "length", "row") else pa.string()) for n in Side.__annotations__])
_REF = pa.schema([("name", pa.string()), ("degraded", _SIDE), ("clean", _SIDE), ("detail", pa.string())])


class EncoderLike(Protocol):
    """The part of ``Encoder`` that is used."""

    def features(self, views_BVHWC: np.ndarray) -> tuple[Any, Any]:
        """Views uint8 B,V,S,S,3 to tokens B,2T,D and features q B,N (torch tensors, float32)."""


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
        held_out: share of the pairs whose moments are kept apart: those whose clean picture has its place
            (:func:`fdi_lib.training.pairs.place_of`) below it.
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
    held_out: float = 0.0


def pair_moments(
    settings: PairStream,
    load: Callable[[], EncoderLike],
    pools: Pools,
    on_reports: Callable[[list[PairReport]], None],
) -> Split:
    """Read all pairs once and return the moments of their features, of both sides of the split.

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
            fn_constructor_args=(load, pools.classify.batch, settings.held_out, settings.seed),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=pools.classify.min, max_size=pools.classify.max),
            num_cpus=pools.classify.cpus,
            num_gpus=pools.classify.gpus,
            memory=pools.classify.memory_gib * _GIB,
        )
    )
    whole = Split()
    for part in parts(stream, settings.part_units, settings.sample, settings.seed, on_reports):
        whole = whole.merge(part)
    return whole


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
        found += [report_of(row) for rows, _ in unpack(table) for row in rows.to_pylist()]
    return compare_all(sorted(found, key=lambda report: report.name))


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
    store, spec = Store.open(settings.uri, settings.storage), settings.spec
    for rows, _ in unpack(table):
        found = [_listed(row) for row in rows.to_pylist()]
        reports = [PairReport(item.name, (item.detail,)) for item in found if isinstance(item, Unpaired)]
        views: list[np.ndarray] = []
        for read in read_pairs(store, [item for item in found if isinstance(item, PairRef)]):
            report, pair = check_pair(read, settings.smallest_px, settings.max_pixels_mp)
            reports.append(report)
            views += [make_views(side, spec) for side in pair or ()] if spec else []
        packed = pa.Table.from_pylist([asdict(report) for report in reports], REPORT)
        yield pack(packed, np.stack(views) if views else np.zeros((0, 1), np.uint8))


class _Encode:
    """Encode views of pairs and tell both sides of the split apart; loads the encoder once an actor."""

    def __init__(self, load: Callable[[], EncoderLike], batch: int, held_out: float, seed: int) -> None:
        self._encoder, self._batch, self._held_out, self._seed = load(), batch, held_out, seed

    def __call__(self, table: pa.Table) -> pa.Table:
        units = [(reports.to_pylist(), views) for reports, views in unpack(table) if views is not None]
        return pa.Table.from_pylist([row for unit in units for row in self._features(*unit)], FEATURES)

    def _features(self, reports: list[dict[str, Any]], views: np.ndarray) -> Iterator[dict[str, Any]]:
        """At most two rows: the whole unit is encoded together, and then parted."""
        # Pairs of one clean picture share a place, whatever their names.
        held_R = [place_of(row["clean_hash"] or row["name"], self._seed) < self._held_out for row in reports]
        held_N = np.array([held for held, row in zip(held_R, reports, strict=True) if not row["reasons"]], bool)
        names = [row["name"] for row in reports if not row["reasons"]]
        q: list[np.ndarray] = []
        sums: dict[bool, Any] = {False: 0.0, True: 0.0}
        step = max(2, self._batch // 2 * 2)  # both sides of a pair in one pass
        for start in range(0, len(views), step):
            tokens, features = self._encoder.features(views[start : start + step])
            q.append(features.numpy())
            difference = (tokens[0::2] - tokens[1::2]).double().numpy()
            mine = held_N[start // 2 :][: len(difference)]
            sums = {side: sums[side] + difference[mine == side].sum(0) for side in sums}
        for side in sorted(set(held_R)):
            told = [row for held, row in zip(held_R, reports, strict=True) if held == side]
            kept = np.flatnonzero(held_N == side)
            if not len(kept):
                yield {"held_out": side, "names": [], "shape": [], "reports": told}
                continue
            both = np.concatenate(q)[np.stack([2 * kept, 2 * kept + 1], axis=1).ravel()]
            yield features_row([names[i] for i in kept], [both], sums[side], told, held_out=side)


def _listed(row: dict[str, Any]) -> PairRef | Unpaired:
    if row["detail"] is not None:
        return Unpaired(row["name"], row["detail"])
    return PairRef(row["name"], Side(**row["degraded"]), Side(**row["clean"]))
