"""``python -m jobs.benches.large``: what tiling costs in memory and in quality, printed as tables.

Sections: ``memory`` of one large image through the job's stages; ``seams`` between tiles, and how far a tiled result is
from that of a tile as large as the image, with the shipped adapters on *calibration* photographs (``FDI_DATA`` names
their folder); ``identity``: a tiled image without a model. Settings may be chosen by what it prints.
"""

from __future__ import annotations

import json
import math
import os
import sys
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fdi_lib.core import metrics
from fdi_lib.core.decision import Decision, told
from fdi_lib.core.protocol import Tile, as_float, degrade_tile, spread
from fdi_lib.core.tiling import tile_starts
from fdi_lib.errors import FDIError
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from jobs.benches import large_memory
from jobs.evaluate import split_tiles

SECTIONS = ("memory", "seams", "identity")
TASKS = ("noise", "haze", "low_light", "scratch")
_ASKED_GIB, _ASKED_SEAM, _ASKED_DB = 3.0, 1.02, 40.0
_TABLE = "docs/training-data.tsv"

Work = Callable[[np.ndarray, Decision, int], np.ndarray]  # image, decision, noise key -> restored


def seam_ratio(image: np.ndarray, tile_px: int, overlap_px: int) -> float:
    """Mean absolute step across the borders of tiles over that between all other neighbours.

    Args:
        image: HW3 uint8, larger than a tile in both directions.
        tile_px: side of its tiles.
        overlap_px: of neighbours.
    """
    across, elsewhere = [], []
    for axis in (0, 1):
        starts = tile_starts(image.shape[axis], tile_px, overlap_px)
        lines = sorted({start - 1 for start in starts[1:]} | {start + tile_px - 1 for start in starts[:-1]})
        steps = np.abs(np.diff(image.astype(np.float32), axis=axis)).mean(axis=(1 - axis, 2))
        across.append(steps[lines])
        elsewhere.append(np.delete(steps, lines))
    return float(np.concatenate(across).mean() / np.concatenate(elsewhere).mean())


def compare(
    task: str, tiles: Sequence[Tile], tiled: Work, whole: Work, tile_px: int, overlap_px: int
) -> dict[str, Any]:
    """Restore pictures with one adapter, in tiles and as one tile.

    Returns:
        Means over pictures of the seam ratio of ``truth``, of the result of one tile (``whole``) and of ``tiled``;
        ``seam``, the last over the one before, and ``worst_seam``; ``agreement_db``, PSNR of the two results, and
        ``least_agreement_db``; ``psnr_whole`` and ``psnr_tiled`` against the truth.
    """
    rows = []
    for tile in tiles:
        sample = degrade_tile([task], tile, 0)
        a, b = (work(sample.pixels, told([task]), sample.noise_key) for work in (whole, tiled))
        truth, one, many = (seam_ratio(image, tile_px, overlap_px) for image in (tile.pixels, a, b))
        agreement, *against = (
            metrics.psnr(as_float(x), as_float(y)) for x, y in ((b, a), (a, tile.pixels), (b, tile.pixels))
        )
        rows.append([truth, one, many, many / one, agreement, *against])
    mean = np.mean(rows, axis=0)
    names = ("truth", "whole", "tiled", "seam", "agreement_db", "psnr_whole", "psnr_tiled")
    return {name: round(float(value), 4) for name, value in zip(names, mean, strict=True)} | {
        "worst_seam": round(float(max(row[3] for row in rows)), 4),
        "least_agreement_db": round(float(min(row[4] for row in rows)), 4),
    }


def seams(pictures: str, px: int, count: int, tasks: Sequence[str], tile_px: int, overlap_px: int) -> dict[str, Any]:
    """Compare on squares of ``px`` of halved calibration photographs; by adapter, see :func:`compare`."""
    tiles = spread(split_tiles(_TABLE, pictures, "calibration", px), count, 0)
    tiled = _restorer(tile_px, overlap_px)
    whole = _restorer(-(-px // tile_px) * tile_px, 0)
    found = {}
    for task in tasks:
        found[task] = compare(task, tiles, tiled, whole, tile_px, overlap_px)
        print(f"{task}: {found[task]}", flush=True)
    return {"px": px, "pictures": [tile.picture for tile in tiles], "tasks": found}


def identity(px: int) -> dict[str, Any]:
    """Send pictures that no tile divides through tiles without a model; share of bytes that stay."""
    from fdi_lib.models.restorer import Restorer

    restorer = Restorer.from_settings(ModelSettings(preset="compact"), ClassifySettings(), RestoreSettings(), batch=2)
    rng = np.random.default_rng(0)
    images: list[np.ndarray] = [rng.integers(0, 256, (px + 37, px + 91, 3)).astype(np.uint8),
              rng.integers(0, 65536, (px + 3, px)).astype(np.uint16)]  # fmt: skip
    pairs = zip(images, restorer.round_trip(images), strict=True)
    return {"px": px, "same": [float((before == after).mean()) for before, after in pairs]}


def memory(megapixels: float, kinds: Sequence[str], names: tuple[str, ...], model: bool) -> list[dict[str, Any]]:
    """Measure one image of every kind of file; see :func:`jobs.benches.large_memory.measure`."""
    rows = []
    for kind in kinds:
        with TemporaryDirectory(prefix="fdi-large-") as folder:
            side = math.ceil(math.sqrt(megapixels * 1e6))
            rows.append({"kind": kind} | large_memory.measure(Path(folder), side, names, kind, model))
    return rows


def _restorer(tile_px: int, overlap_px: int) -> Work:
    from fdi_lib.models.restorer import Restorer

    settings = RestoreSettings(tile_px=tile_px, overlap_px=overlap_px)
    restorer = Restorer.from_settings(ModelSettings(preset="compact"), ClassifySettings(), settings, batch=1)
    return lambda image, decision, key: restorer.restore([image], [decision], [key])[0]


def _print(result: dict[str, Any], names: tuple[str, ...]) -> None:
    console = Console(width=150)
    if "memory" in result:
        table = Table(
            "file", "MP", "file, MiB", "stage", "model", "held before, MiB", "peak above, MiB", "s", "outcome"
        )
        table.title = f"Memory of one image (asked: at most {_ASKED_GIB:g} GiB above)"
        for row in result["memory"]:
            for stage in ("decode", "restore"):
                found, last = row[stage], stage == "restore"
                table.add_row(
                    row["kind"], f"{row['megapixels']:.1f}", f"{row['file_mib']:.0f}", stage,
                    (", ".join(names) if result["model"] else "none") if last else "",
                    f"{found['before_mib']:.0f}", f"{found['above_mib']:.0f}", f"{found['seconds']:.0f}",
                    row["status"] if last else "",
                )  # fmt: skip
        console.print(table)
    if "seams" in result:
        columns = ("truth", "whole", "tiled", "seam", "worst_seam", "agreement_db", "least_agreement_db", "psnr_whole",
                   "psnr_tiled")  # fmt: skip
        table = Table("adapter", *(column.replace("_", " ") for column in columns))
        asked = f"asked: seam {_ASKED_SEAM:g}, agreement {_ASKED_DB:g} dB"
        table.title = f"Steps across the borders of tiles over those elsewhere; tiled against one tile ({asked})"
        for task, row in result["seams"]["tasks"].items():
            shown = [f"{row[c]:.2f}" if "db" in c or "psnr" in c else f"{row[c]:.4f}" for c in columns]
            table.add_row(task, *shown)
        console.print(table)
    if "identity" in result:
        print("tiled without a model, share of bytes that stay:", *result["identity"]["same"])


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m jobs.benches.large")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--megapixels", type=float, default=100, help="memory: of the image")
    parser.add_argument("--kinds", nargs="+", choices=("jpg", "tif"), default=("jpg", "tif"), help="memory: of file")
    parser.add_argument("--adapters", nargs="+", default=("noise",), help="memory: used one after the other")
    parser.add_argument("--model", action=BooleanOptionalAction, default=True, help="memory: whether models compute")
    parser.add_argument("--px", type=int, default=1024, help="seams, identity: side of a picture")
    parser.add_argument("--pictures", type=int, default=4, help="seams: how many")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="seams: adapters, each by itself")
    parser.add_argument("--tile-px", type=int, default=RestoreSettings().tile_px)
    parser.add_argument("--overlap-px", type=int, default=RestoreSettings().overlap_px)
    parser.add_argument("--out", type=Path, default=Path("out/large"))
    wanted = parser.parse_args()
    if "seams" in wanted.sections and "FDI_DATA" not in os.environ:
        sys.exit("set FDI_DATA to the folder that holds the pictures of docs/training-data.tsv")
    made: dict[str, Any] = {"model": wanted.model}
    try:
        if "memory" in wanted.sections:
            made["memory"] = memory(wanted.megapixels, wanted.kinds, tuple(wanted.adapters), wanted.model)
        if "seams" in wanted.sections:
            made["seams"] = seams(
                os.environ["FDI_DATA"], wanted.px, wanted.pictures, wanted.tasks, wanted.tile_px, wanted.overlap_px
            )
        if "identity" in wanted.sections:
            made["identity"] = identity(wanted.px)
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    wanted.out.mkdir(parents=True, exist_ok=True)
    (wanted.out / "large.json").write_text(json.dumps(made, indent=1) + "\n")
    _print(made, tuple(wanted.adapters))
