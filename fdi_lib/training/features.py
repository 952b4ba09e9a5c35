"""Clean pictures to features of what becomes of them: damaged, in one colour, seen by the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from fdi_lib.core.degrade import degrade
from fdi_lib.core.monochrome import grey
from fdi_lib.core.order import in_order_of_damage
from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.models.encoder import Encoder
from fdi_lib.training.encoder import quantised

_BATCH = 8  # images a pass


class Damage(NamedTuple):
    """What becomes of a picture.

    Args:
        image: clean, uint8 HW3.
        names: degradations; none leaves it clean.
        seed: key of their parameters.
    """

    image: np.ndarray
    names: tuple[str, ...] = ()
    seed: tuple[int, ...] = ()


ViewsOf = Callable[[Iterable[Damage]], list[np.ndarray]]


def features(encoder: Encoder, images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8 HW3) -> tokens float32 N,T,D and features q float64 N,D."""
    return features_of_views(encoder, [make_views(image, encoder.view_spec, as_is=True) for image in images])


def features_of_views(encoder: Encoder, views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Views of images (uint8 V,S,S,3 each) -> as :func:`features`."""
    rows = [encoder.features(np.stack(views[i : i + _BATCH])) for i in range(0, len(views), _BATCH)]
    tokens, q = (np.concatenate([part.numpy() for part in column]) for column in zip(*rows, strict=True))
    return tokens, q.astype(np.float64)


def degraded(names: tuple[str, ...], image: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Apply degradations in the order in which they happen; uint8 HW3 in and out, quantised after the last."""
    rng = np.random.default_rng(seed)
    out = image.astype(np.float32) / 255
    for name in in_order_of_damage(names):
        out = degrade(name, out, rng)
    return quantised(out)


@contextmanager
def making_views(spec: ViewSpec, workers: int, monochrome: bool = False) -> Iterator[ViewsOf]:
    """Gives a function from what becomes of pictures to views of the results, in order.

    Args:
        spec: the encoder's.
        workers: processes that damage pictures; 0: this one does it.
        monochrome: view the results in grey.
    """
    look = partial(_views, spec, monochrome)
    if not workers:
        yield lambda damages: list(map(look, damages))
        return
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        yield lambda damages: list(pool.map(look, damages, chunksize=8))


def _views(spec: ViewSpec, monochrome: bool, damage: Damage) -> np.ndarray:
    image = degraded(damage.names, damage.image, damage.seed)
    return make_views(grey(image) if monochrome else image, spec, as_is=True)
