"""``fdi evaluate``: restored against reference, as a table, ``metrics.json`` and a contact sheet.

One process, no Ray: a few hundred tiles. Synthetic data follow :mod:`fdi_lib.core.protocol`; folders hold a user's own
pairs. It does not choose any parameter: what it prints on the test pictures changes nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvips
from rich.console import Console
from rich.table import Table

from fdi_lib.core.metrics import PSNR_CAP_DB
from fdi_lib.core.monochrome import grey, toned
from fdi_lib.core.protocol import Sample, Tile, degrade_tile, even_choice, key_seed, mixtures, spread
from fdi_lib.core.sheet import contact_sheet
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import EvaluateDataSettings, EvaluateManifest, StorageSettings
from fdi_lib.storage.store import Store
from fdi_lib.training.measure import EvaluationSet, RestorerLike, measure
from fdi_lib.training.pictures import Split, cut_grid, read_list, whole_pictures

if TYPE_CHECKING:
    from fdi_lib.models.restorer import Restorer

_REDUCTION = 2  # averaging 2 x 2 pixels of a JPEG source makes it truly clean
_COLUMNS = (
    "n",
    "psnr_in",
    "psnr_out",
    "psnr_roundtrip",
    "gain_db",
    "gain_db_classified",
    "gain_db_without_fidelity",
    "gain_db_fidelity_only",
    "ssim_in",
    "ssim_out",
    "ms_ssim_in",
    "ms_ssim_out",
    "niqe_in",
    "niqe_out",
    "classical",
    "classical_gain_db",
    "found",
)


def run(manifest: EvaluateManifest) -> dict[str, Any]:
    """Load the models, measure, print and write; return what ``metrics.json`` holds.

    Raises:
        ManifestError: data missing, or none of the degradations has an adapter.
        WeightsError: a checkpoint is missing or altered.
    """
    return evaluate(manifest, lambda fidelity: restorer_of(manifest, fidelity=fidelity))


def restorer_of(manifest: EvaluateManifest, **changes: Any) -> Restorer:
    """Load the models that a manifest names, with changes to its ``restore`` settings.

    Raises:
        WeightsError: a checkpoint is missing or altered.
    """
    from fdi_lib.models.restorer import Restorer  # torch is imported only when something is measured

    settings = manifest.restore.model_copy(update=changes)
    return Restorer.from_settings(manifest.models, manifest.classify, settings, resident_adapters=16, batch=8)


def evaluate(manifest: EvaluateManifest, load: Callable[[bool], RestorerLike]) -> dict[str, Any]:
    """Do the work of :func:`run` with the restorers that ``load(fidelity)`` makes."""
    started = time.monotonic()
    restorer, bare = load(manifest.restore.fidelity), load(False)
    data = (
        _folders(manifest, set(restorer.adapter_hashes))
        if manifest.data.kind == "folders"
        else synthetic(manifest, set(restorer.adapter_hashes))
    )
    result, pictures = measure(data, restorer, bare, manifest.restore.mode, manifest.data.seed)
    result["seconds"] = round(time.monotonic() - started, 1)

    if manifest.data.kind == "synthetic":
        result |= {"split": manifest.data.split, "colour": manifest.data.colour}
    store = Store.open(manifest.output, StorageSettings())
    store.replace("metrics.json", json.dumps(result, indent=1, sort_keys=True).encode())
    store.replace("contact-sheet.png", _png(_sheet(pictures)))
    store.replace("table.txt", _print(result).encode())
    return result


def split_tiles(table: str, root: str, split: Split, tile_px: int, reduction: int = _REDUCTION) -> list[Tile]:
    """Cut the photographs of one split, reduced, along a grid; garments and plates are not clean enough.

    Raises:
        ManifestError: the table or a picture is missing or altered, or none is large enough.
    """
    tiles: list[Tile] = []
    numbers: Counter[str] = Counter()
    for picture in read_list(Path(table), Path(root), split):
        if picture.kind == "photo":
            for pixels in cut_grid(picture.load(reduction), tile_px):
                tiles.append(Tile(picture.group_id, numbers[picture.group_id], pixels))
                numbers[picture.group_id] += 1
    if not tiles:
        raise ManifestError(
            "no picture of the list is large enough for a tile",
            key="data.tile_px",
            value=str(tile_px),
            remedy="choose a smaller tile, or another list",
        )
    return tiles


def _test_tiles(data: EvaluateDataSettings) -> tuple[list[Tile], list[Tile]]:
    """What is degraded, and what more is clean only: false positives are rare, and need the number."""
    if data.cut == "tiles":  # the larger pictures are cut once more, reduced twice as much
        tiles, more = (split_tiles(data.pictures, data.uri, data.split, data.tile_px, n * _REDUCTION) for n in (1, 2))
        return tiles, more
    sizes: dict[str, list[Tile]] = {}
    for picture, pixels in whole_pictures(read_list(Path(data.pictures), Path(data.uri), data.split)):
        mine = sizes.setdefault(picture.group_id, [])
        mine.append(Tile(picture.group_id, len(mine), pixels))
    smallest = [[tile for tile in mine if min(tile.pixels.shape[:2]) >= data.tile_px][-1:] for mine in sizes.values()]
    chosen = {(tile.picture, tile.number): tile for tiles in smallest for tile in tiles}
    if not chosen:
        raise ManifestError("no whole picture is large enough", key="data.tile_px", value=str(data.tile_px),
                            remedy="choose a smaller one, or list other pictures")  # fmt: skip
    further = [tile for mine in sizes.values() for tile in mine if (tile.picture, tile.number) not in chosen]
    return list(chosen.values()), further


def synthetic(manifest: EvaluateManifest, adapters: set[str]) -> EvaluationSet:
    """Degrade tiles of photographs of the split, or whole ones, by the protocol."""
    data = manifest.data
    names = [n for n in data.degradations if n in adapters]
    if not names:
        raise ManifestError(
            "no adapter for any of the degradations",
            key="data.degradations",
            value=", ".join(data.degradations),
            remedy="train an adapter, or name others",
        )
    tiles, more = ([_printed(tile, data) for tile in found] for found in _test_tiles(data))
    chosen = spread(tiles, data.tiles_per_degradation, data.seed)
    return EvaluationSet(
        singles={n: [_damaged([n], t, data) for t in chosen] for n in names},
        clean=spread(tiles + [Tile(t.picture, -1 - t.number, t.pixels) for t in more], data.clean_tiles, data.seed),
        mixtures=[
            _damaged(pair, tile, data)
            for pair in chosen_mixtures(data, adapters)
            for tile in spread(tiles, data.tiles_per_mixture, key_seed(data.seed, *pair))
        ],
        unknown={n: [_damaged([n], t, data) for t in chosen] for n in data.degradations if n not in adapters},
    )


def _printed(tile: Tile, data: EvaluateDataSettings) -> Tile:
    """The tile as a black-and-white print, where those are measured; all of a picture in one tone."""
    if data.colour == "as_is":
        return tile
    rng = np.random.default_rng(key_seed(data.seed, "toned", tile.picture))
    return replace(tile, pixels=grey(tile.pixels) if data.colour == "grey" else toned(tile.pixels, rng))


def _damaged(names: Sequence[str], tile: Tile, data: EvaluateDataSettings) -> Sample:
    """The tile, damaged by the protocol; a grey scan has no colour of damage either."""
    sample = degrade_tile(names, tile, data.seed)
    return replace(sample, pixels=grey(sample.pixels)) if data.colour == "grey" else sample


def chosen_mixtures(data: EvaluateDataSettings, adapters: set[str]) -> list[tuple[str, str]]:
    """The two-fold mixtures that the manifest asks for, each in the order of damage.

    Raises:
        ManifestError: one of them names a degradation without an adapter.
    """
    if data.mixtures == "all":
        pairs = mixtures([n for n in data.degradations if n in adapters])
    else:
        pairs = list(dict.fromkeys(mixtures(pair)[0] for pair in data.mixtures))  # one named twice is measured once
    without = [name for pair in pairs for name in pair if name not in adapters]
    if without:
        raise ManifestError(
            "no adapter of this name",
            key="data.mixtures",
            value=without[0],
            remedy=f"use some of: {', '.join(sorted(adapters))}",
        )
    return pairs if data.max_mixtures is None else even_choice(pairs, data.max_mixtures, data.seed)


def _folders(manifest: EvaluateManifest, adapters: set[str]) -> EvaluationSet:
    """Pair ``NAME/degraded/*`` with ``NAME/clean/*`` by file name without extension."""
    singles: dict[str, list[Sample]] = {}
    for name in manifest.data.degradations:
        if name not in adapters:
            raise ManifestError(
                "no adapter of this name",
                key="data.degradations",
                value=name,
                remedy=f"use some of: {', '.join(sorted(adapters))}",
            )
        sides = [
            {p.stem: p for p in sorted(Path(manifest.data.uri, name, side).glob("*")) if p.is_file()}
            for side in ("degraded", "clean")
        ]
        if not sides[0] or sides[0].keys() != sides[1].keys():
            odd = ", ".join(sorted(sides[0].keys() ^ sides[1].keys())[:3]) or "no picture"
            raise ManifestError(
                f"not pairs: {odd}",
                key="data.uri",
                value=f"{manifest.data.uri}/{name}",
                remedy="put every picture into both degraded/ and clean/, under one name",
            )
        singles[name] = [
            Sample(
                (name,), Tile(stem, 0, _read(sides[1][stem])), _read(sides[0][stem]), key_seed(manifest.data.seed, stem)
            )
            for stem in sides[0]
        ]
        for sample in singles[name]:
            if sample.pixels.shape != sample.tile.pixels.shape:
                raise ManifestError(
                    "the two pictures differ in size",
                    key="data.uri",
                    value=sample.tile.picture,
                    remedy="align the pair",
                )
    return EvaluationSet(singles)


def _read(path: Path) -> np.ndarray:
    try:
        image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="warning").colourspace("srgb")
        return np.ascontiguousarray((image.flatten() if image.hasalpha() else image).numpy()[..., :3])
    except pyvips.Error as exc:
        raise ManifestError(
            f"not readable as a picture: {exc.message.strip()}",
            key="data.uri",
            value=str(path),
            remedy="remove the file or replace it",
        ) from None


def _sheet(pictures: dict[str, list[np.ndarray]]) -> np.ndarray:
    return contact_sheet(
        list(zip(*pictures.values(), strict=True)), ("input", "restored", "classical", "reference"), list(pictures)
    )


def _png(pixels: np.ndarray) -> bytes:
    return bytes(pyvips.Image.new_from_array(pixels, interpretation="srgb").pngsave_buffer())


def _print(result: dict[str, Any]) -> str:
    """Print the table on standard output and return it as text."""
    console = Console(record=True, width=220)
    table = Table(title="Restored against reference (8 bit, mean over tiles)")
    for column in ("degradation", *_COLUMNS):
        table.add_column(
            column.replace("_db", " dB").replace("_", " "),
            justify="right" if column != "classical" else "left",
            no_wrap=column == "degradation",  # names stay whole
        )
    for name, row in result["degradations"].items():
        table.add_row(name, *(_shown(column, row[column]) for column in _COLUMNS))
    console.print(table)
    for part in ("clean", "mixtures", "unknown"):
        shown = {k.replace("_", " "): v for k, v in result[part].items() if k != "kinds"}
        console.print(f"{part}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))
    for name, row in result["unknown"]["kinds"].items():
        console.print(f"  {name}, unknown to the bank: AUROC {row['auroc']:.2f}, called unknown {row['found']:.0%}")
    return console.export_text()


def _shown(column: str, value: Any) -> str:
    if column == "psnr_roundtrip" and value >= PSNR_CAP_DB:
        return "lossless"
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
