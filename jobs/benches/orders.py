"""``python -m jobs.benches.orders MANIFEST [KEY=VALUE ...]``: in which order are two degradations undone?

Takes an evaluate manifest, degrades tiles of the *calibration* photographs two-fold, as ``fdi evaluate`` does with the
test photographs, and restores them in several orders. Settings may be chosen by what it prints: the test pictures
take no part.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

from fdi_lib.core import metrics
from fdi_lib.core.decision import Decision, Restored, told
from fdi_lib.core.order import in_order_of_damage, in_order_of_repair
from fdi_lib.core.protocol import Sample, degrade_tile, key_seed, spread
from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.manifest import EvaluateManifest, StorageSettings, load_manifest
from fdi_lib.storage.store import Store
from fdi_lib.training.measure import scores
from jobs.evaluate import chosen_mixtures, restorer_of, split_tiles

_CHUNK = 32  # tiles handed to the restorer at once
ORDERS = ("best_single", "damage", "reverse", "redetected", "found", "found_redetected")
_MEANING = {
    "best_single": "the better adapter alone, of each tile",
    "damage": "told, first damage first",
    "reverse": "told, last damage first: what progressive does",
    "redetected": "told, last damage first, looked at again after the step",
    "found": "as the classifier decides",
    "found_redetected": "as the classifier decides, looked at again after each step",
}


class RestorerLike(Protocol):
    """The part of ``Restorer`` that is compared."""

    adapter_hashes: dict[str, str]

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        """Decide for HW3 uint8 images."""

    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[Restored]:
        """Restore images, and say what was done."""


def run(manifest: EvaluateManifest) -> dict[str, Any]:
    """Load the models, compare, print and write ``orders.json``; return what it holds.

    Raises:
        ManifestError: pictures are missing, or fewer than two of the degradations have an adapter.
        WeightsError: a checkpoint is missing or altered.
    """
    return bench(manifest, lambda redetect: restorer_of(manifest, mode="progressive", redetect=redetect))


def bench(manifest: EvaluateManifest, load: Callable[[bool], RestorerLike]) -> dict[str, Any]:
    """Do the work of :func:`run` with the restorers that ``load(redetect)`` makes."""
    data = manifest.data
    if data.cut != "tiles":
        raise ManifestError("orders are compared on tiles", key="data.cut", value=data.cut, remedy="use `tiles`")
    plain, again = load(False), load(True)
    tiles = split_tiles(data.pictures, data.uri, "calibration", data.tile_px)
    rows: dict[str, dict[str, Any]] = {}
    pairs = chosen_mixtures(data, set(plain.adapter_hashes))
    if not pairs:
        raise ManifestError(
            "an order needs adapters for two of the degradations",
            key="data.degradations",
            value=", ".join(data.degradations),
            remedy=f"name two of: {', '.join(sorted(plain.adapter_hashes))}",
        )
    for pair in pairs:
        some = spread(tiles, data.tiles_per_mixture, key_seed(data.seed, *pair))
        rows["+".join(pair)] = compare([degrade_tile(pair, tile, data.seed) for tile in some], plain, again)
    mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))}
    result = {"split": "calibration", "mixtures": rows, "mean": mean}
    Store.open(manifest.output, StorageSettings()).replace("orders.json", json.dumps(result, indent=1).encode())
    _print(result)
    return result


def compare(samples: Sequence[Sample], plain: RestorerLike, again: RestorerLike) -> dict[str, Any]:
    """Mean PSNR of tiles of one mixture in every order, dB.

    Args:
        samples: tiles with the same two degradations.
        plain: carries a decision out as it is.
        again: looks again after each step.

    Returns:
        ``n``, ``psnr_in``, one figure for each of ``ORDERS``, and the mean number of steps taken where they may
        differ: ``steps_redetected``, ``steps_found``, ``steps_found_redetected``.
    """
    names = samples[0].applied
    found = plain.classify([s.pixels for s in samples])
    decisions = {
        "damage": [told(in_order_of_damage(names))] * len(samples),
        "reverse": [told(in_order_of_repair(names))] * len(samples),
        "found": found,
    }
    decisions |= {"redetected": decisions["reverse"], "found_redetected": found}
    alone = [_scores(samples, _restored(samples, [told([name])] * len(samples), plain)) for name in names]
    figures = {
        "n": len(samples),
        "psnr_in": float(np.mean(_scores(samples, [Restored(s.pixels, told([])) for s in samples]))),
        "best_single": float(np.mean(np.maximum(*alone))),
    }
    for order in ORDERS[1:]:
        made = _restored(samples, decisions[order], again if order.endswith("redetected") else plain)
        figures[order] = float(np.mean(_scores(samples, made)))
        if order not in ("damage", "reverse"):
            figures[f"steps_{order}"] = float(np.mean([len(one.decision.adapters) for one in made]))
    return figures


def _restored(samples: Sequence[Sample], decisions: Sequence[Decision], restorer: RestorerLike) -> list[Restored]:
    made = []
    for start in range(0, len(samples), _CHUNK):
        part = samples[start : start + _CHUNK]
        made += restorer.restore_each(
            [s.pixels for s in part], list(decisions[start : start + _CHUNK]), [s.noise_key for s in part]
        )
    return made


def _scores(samples: Sequence[Sample], made: Sequence[Restored]) -> np.ndarray:
    """PSNR of each tile; what came out not finite stays as it was."""
    pairs = zip(samples, made, strict=True)
    return scores(metrics.psnr, samples, [s.pixels if one.pixels is None else one.pixels for s, one in pairs])


def _print(result: dict[str, Any]) -> None:
    console = Console(width=160)
    columns = list(result["mean"])
    table = Table("mixture", *(column.replace("_", " ") for column in columns))
    table.title = f"Orders of two repairs: mean PSNR, dB, and steps taken ({result['split']} pictures)"
    for name, row in [*result["mixtures"].items(), ("mean", result["mean"])]:
        table.add_row(name, *(f"{row[c]:.0f}" if c == "n" else f"{row[c]:.2f}" for c in columns))
    console.print(table)
    for order, meaning in _MEANING.items():
        console.print(f"{order.replace('_', ' ')}: {meaning}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m jobs.benches.orders MANIFEST [KEY=VALUE ...]")
    try:
        wanted: Any = load_manifest(sys.argv[1], sys.argv[2:], "evaluate")
        run(wanted)
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
