"""Where a trainer's pairs come from: stored pairs, or clean tiles that are degraded on the fly; and how they are split.

A crop is a function of (seed, sample index) alone, whatever the worker, the order or a restart. Does NOT know the
trainer, nor whether pairs are any good (``pair_checks.py``).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from fdi_lib.core.degrade import degrade
from fdi_lib.core.floats import to_float_rgb
from fdi_lib.core.protocol import as_float, quantise
from fdi_lib.errors import ItemError, ManifestError
from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.pairs import Form, PairRef, Unpaired, decode_upright, list_pairs, read_pairs
from fdi_lib.storage.store import Store
from fdi_lib.training.crops import Pair, Tiles, augmented_crop

MIN_PAIRS = 8
_MIB = 2**20
T = TypeVar("T")


class SyntheticPairs:
    """Clean tiles with a recipe of :mod:`fdi_lib.core.degrade`, drawn anew for every sample.

    Args:
        tiles: uint8 T,T,3 RGB each, or a picklable function that makes them (called once in each process).
        task: name of the degradation.
    """

    def __init__(self, tiles: Tiles | Callable[[], Tiles], task: str) -> None:
        self.task = task
        self._given = tiles
        self._tiles: Tiles | None = None

    def __len__(self) -> int:
        """Tiles."""
        return len(self.tiles)

    def __getstate__(self) -> dict[str, object]:
        """What is loaded stays behind."""
        return self.__dict__ | {"_tiles": None}

    def crop(self, index: int, crop_px: int, seed: int) -> Pair:
        """See :meth:`PairSource.crop`. Tile, tone, severity and damage are drawn from (seed, index)."""
        rng = np.random.default_rng([seed, index])
        clean = degraded = augmented_crop(self.tiles, crop_px, rng)
        for name in self.damage(index, seed):
            degraded = degrade(name, degraded, rng)
        return as_float(quantise(degraded)), clean

    def damage(self, index: int, seed: int) -> Sequence[str]:
        """Names of what is done to a sample, in order."""
        return (self.task,)

    @property
    def tiles(self) -> Tiles:
        """What is drawn from."""
        if self._tiles is None:
            self._tiles = self._given() if callable(self._given) else self._given
        return self._tiles


class StoredPairs:
    """Pairs of stored pictures, decoded when they are drawn. Each epoch is a permutation of its own, keyed by the seed.

    Args:
        refs: what to draw from, at least one, as :func:`gather` or :func:`split` returned them.
        uri: root of the store that they were listed in.
        storage: how to reach it.
        cache_mib: decoded pictures kept in this process, MiB; a pair larger than this is read for each of its crops.
        max_pixels_mp: limit for one picture, megapixels.
    """

    def __init__(
        self,
        refs: Sequence[PairRef],
        uri: str,
        storage: StorageSettings,
        cache_mib: float = 512,
        max_pixels_mp: float = 400,
    ) -> None:
        self.refs = tuple(refs)
        self._uri, self._max_pixels_mp = uri, max_pixels_mp
        self._store = Store.open(uri, storage)
        self._cache = _Decoded(int(cache_mib * _MIB))
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        """Pairs."""
        return len(self.refs)

    def __getstate__(self) -> dict[str, object]:
        """Orders are made again."""
        return self.__dict__ | {"_orders": {}}

    def crop(self, index: int, crop_px: int, seed: int) -> Pair:
        """See :meth:`PairSource.crop`."""
        epoch, place = divmod(index, len(self.refs))
        ref = self.refs[self._order(seed, epoch)[place]]
        degraded, clean = self._pictures(ref)
        height, width = clean.shape[:2]
        if degraded.shape[:2] != (height, width):
            raise self._unfit(ref, f"sizes differ: {degraded.shape[1]} x {degraded.shape[0]}, {width} x {height}")
        if min(height, width) < crop_px:
            raise self._unfit(ref, f"{width} x {height} px, smaller than a crop of {crop_px} px")
        rng = np.random.default_rng([seed, index])
        y, x = rng.integers(0, height - crop_px + 1), rng.integers(0, width - crop_px + 1)
        turns, flipped = int(rng.integers(4)), rng.random() < 0.5

        def cut(pixels: np.ndarray) -> np.ndarray:
            part = np.rot90(to_float_rgb(pixels[y : y + crop_px, x : x + crop_px]), turns)
            return np.ascontiguousarray(part[:, ::-1] if flipped else part)

        return cut(degraded), cut(clean)

    def whole(self, most: int) -> Iterator[tuple[str, Pair]]:
        """Names and whole pictures, upright, of at most so many pairs, spread evenly over all of them."""
        for k in sorted({int(i) for i in np.linspace(0, len(self.refs) - 1, min(most, len(self.refs)))}):
            yield self.refs[k].name, self._pictures(self.refs[k])

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        if (seed, epoch) not in self._orders:
            if len(self._orders) > 2:
                self._orders = {}
            self._orders[seed, epoch] = np.random.default_rng([seed, 0x0EDE, epoch]).permutation(len(self.refs))
        return self._orders[seed, epoch]

    def _pictures(self, ref: PairRef) -> Pair:
        held = self._cache.get(ref.name)
        if held is not None:
            return held
        read = next(read_pairs(self._store, [ref]))
        sides = []
        for side, data in (("degraded", read.degraded), ("clean", read.clean)):
            try:
                if isinstance(data, ItemError):
                    raise data
                sides.append(decode_upright(data, self._max_pixels_mp))
            except ItemError as error:
                raise self._unfit(ref, f"the {side} picture can't be used, {error}") from error
        pair = sides[0], sides[1]
        self._cache.put(ref.name, pair)
        return pair

    def _unfit(self, ref: PairRef, problem: str) -> ManifestError:
        remedy = "repair the pair, or take it out"
        return ManifestError(f"{ref.name}: {problem}", key="data.uri", value=self._uri, remedy=remedy)


class _Decoded:
    """Least recently used pairs of pictures, at most so many bytes. Pickles as an empty one."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0
        self._pairs: OrderedDict[str, Pair] = OrderedDict()
        self._lock = threading.Lock()  # batches are made ahead in threads

    def __reduce__(self) -> tuple[type[_Decoded], tuple[int]]:
        return _Decoded, (self._limit,)

    def get(self, name: str) -> Pair | None:
        with self._lock:
            if name in self._pairs:
                self._pairs.move_to_end(name)
            return self._pairs.get(name)

    def put(self, name: str, pair: Pair) -> None:
        with self._lock:
            if name in self._pairs or _size(pair) > self._limit:
                return
            self._pairs[name] = pair
            self._held += _size(pair)
            while self._held > self._limit:
                self._held -= _size(self._pairs.popitem(last=False)[1])


def _size(pair: Pair) -> int:
    return pair[0].nbytes + pair[1].nbytes


def gather(
    uri: str, form: Form, storage: StorageSettings, key: str = "data.uri"
) -> tuple[list[PairRef], list[Unpaired]]:
    """List all pairs, and what is none.

    Raises:
        ManifestError: fewer than ``MIN_PAIRS`` pairs.
        StorageRefusedError, StorageOutageError: as the store says.
    """
    refs: list[PairRef] = []
    unpaired: list[Unpaired] = []
    for found in list_pairs(uri, form, storage):
        if isinstance(found, PairRef):
            refs.append(found)
        else:
            unpaired.append(found)
    first = f"; {unpaired[0].name}: {unpaired[0].detail}" if unpaired else ""
    layouts = {
        "pairs": "degraded/ and clean/ must hold pictures of the same names",
        "shards": "shards must hold KEY.degraded.png and KEY.clean.png, or the columns degraded and clean",
    }
    remedy = layouts[form] if unpaired or not refs else "add pairs"
    check_enough(len(refs), f"{len(unpaired)} without a counterpart{first}", remedy, key, uri)
    return refs, unpaired


def check_enough(count: int, besides: str, remedy: str, key: str, uri: str) -> None:
    """Refuse fewer than ``MIN_PAIRS`` pairs.

    Raises:
        ManifestError: says how many there are, and what is there besides.
    """
    if count < MIN_PAIRS:
        pairs = f"{count} pair{'' if count == 1 else 's'}"
        raise ManifestError(
            f"{pairs} to learn from, at least {MIN_PAIRS} are needed ({besides})", key=key, value=uri, remedy=remedy
        )


def group_of(ref: PairRef) -> str:
    """What a split keeps together."""
    return ref.group or ref.name


def split(
    items: Iterable[T],
    fraction: float,
    seed: int,
    group: Callable[[T], str] = group_of,  # type: ignore[assignment]
) -> tuple[list[T], list[T]]:
    """Part items into training and validation by a hash of their groups, in the order given; neither is empty.

    An item stays on its side when others are added. Only where chance would leave a side empty, one group is moved.

    Args:
        items: pairs, pictures ...; of two groups at least.
        fraction: share of groups for validation.
        seed: another seed gives another split.
        group: name of an item's group.

    Raises:
        ManifestError: there is one group only.
    """
    everything = list(items)
    place = {name: place_of(name, seed) for name in {group(item) for item in everything}}
    if len(place) < 2:
        raise ManifestError(
            "all of it shows one picture: nothing of another one is left to validate on",
            key="data.uri",
            remedy="add pictures of something else",
        )
    limit = fraction
    if not any(p < limit for p in place.values()):
        limit = np.nextafter(min(place.values()), 1)
    elif all(p < limit for p in place.values()):
        limit = max(place.values())
    train = [item for item in everything if place[group(item)] >= limit]
    return train, [item for item in everything if place[group(item)] < limit]


def place_of(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name and the seed only: below the held-out share, a pair is held out."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
