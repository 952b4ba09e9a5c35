"""``python -m jobs.benches.levels [DIR] [KEY=VALUE ...]``: gains at the levels of damage that the literature quotes.

White Gaussian noise of sigma 25 and 50 and JPEG of quality 10, on the tiles of ``manifests/evaluate/compact.yaml``, the
adapter known and chosen, beside the classical method. Prints a table and writes ``levels.json`` into DIR. ``FDI_DATA``
names the folder of the pictures. It chooses no parameter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fdi_lib.core.classical import classical_method
from fdi_lib.core.degrade.codec import jpeg
from fdi_lib.core.degrade.sensor import noise
from fdi_lib.core.protocol import Sample, Tile, as_float, key_seed, quantise, spread
from fdi_lib.errors import FDIError
from fdi_lib.manifest import EvaluateManifest, load_manifest
from fdi_lib.models.pristine import load_pristine
from fdi_lib.training.measure import RestorerLike, measure_single
from jobs.evaluate import restorer_of, split_tiles

Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # float32 HW3 in [0, 1]; the result needn't be clipped
LEVELS: dict[str, tuple[str, Damage]] = {
    "sigma 25": ("noise", partial(noise, sigma=25 / 255, shot_share=0.0)),
    "sigma 50": ("noise", partial(noise, sigma=50 / 255, shot_share=0.0)),
    "quality 10": ("jpeg", lambda image, _: jpeg(image, 10, subsample=True)),
}
_MANIFEST = "manifests/evaluate/compact.yaml"
_COLUMNS = (
    "n", "psnr_in", "psnr_out", "gain_db", "gain_db_classified", "gain_db_without_fidelity", "ssim_in", "ssim_out",
    "classical", "classical_gain_db", "found",
)  # fmt: skip


def run(manifest: EvaluateManifest) -> dict[str, Any]:
    """Load the models and the tiles, and measure; the figures by level.

    Raises:
        ManifestError: pictures are missing.
        WeightsError: a checkpoint is missing or altered.
    """
    data = manifest.data
    tiles = spread(
        split_tiles(data.pictures, data.uri, data.split, data.tile_px), data.tiles_per_degradation, data.seed
    )
    return levels(tiles, restorer_of(manifest, fidelity=True), restorer_of(manifest, fidelity=False), data.seed)


def levels(tiles: Sequence[Tile], restorer: RestorerLike, bare: RestorerLike, seed: int) -> dict[str, Any]:
    """Figures by level, as :func:`fdi_lib.training.measure.measure_single` gives them."""
    pristine = load_pristine()
    found = {}
    for level, (name, damage) in LEVELS.items():
        samples = [_damaged(level, name, damage, tile, seed) for tile in tiles]
        found[level] = measure_single(name, samples, restorer, bare, classical_method(name), pristine)[0]
    return found


def _damaged(level: str, name: str, damage: Damage, tile: Tile, seed: int) -> Sample:
    rng = np.random.default_rng(key_seed(seed, level, tile.picture, tile.number))
    key = key_seed(seed, "restore", level, tile.picture, tile.number)
    return Sample((name,), tile, quantise(damage(as_float(tile.pixels), rng)), key)


def table(found: dict[str, Any]) -> Table:
    """The figures for people."""
    shown = Table("level", *_COLUMNS)
    for level, figures in found.items():
        cells = [f"{v:.2f}" if isinstance(v := figures[column], float) else str(v) for column in _COLUMNS]
        shown.add_row(f"{LEVELS[level][0]}, {level}", *cells)
    return shown


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    folder = Path(argv.pop(0) if argv and "=" not in argv[0] else "out/levels")
    try:
        manifest = load_manifest(_MANIFEST, argv, "evaluate")
        assert isinstance(manifest, EvaluateManifest), "the kind that was asked for"
        found = run(manifest)
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "levels.json").write_text(json.dumps(found, indent=1) + "\n")
    Console(width=200).print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
