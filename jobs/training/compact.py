"""Trains the compact base or encoder in this process, from the manifest to the weights' folder; ``training.json`` last.

A run that was interrupted goes on from its checkpoint when the same command is given again. Knows no Ray.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import TrainManifest
from fdi_lib.manifest.locations import on_this_machine
from fdi_lib.models.encoder import Encoder
from fdi_lib.training.base import train_base
from fdi_lib.training.encoder import train_encoder
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.pictures import identity_of, read_list, scene_tiles, shared, training_tiles
from fdi_lib.training.scenes import Scenes
from jobs.training.checks import check_recipes, check_trackers
from jobs.training.data import TILE_PX
from jobs.training.output import check_free, finished
from jobs.training.plan import fit_settings, recipe_of
from jobs.training.storage import local_folder


def run(manifest: TrainManifest, workers: int = 0) -> dict[str, Any]:
    """Train the base or the encoder that the manifest names; return the summary.

    Args:
        manifest: of the training.
        workers: processes that make batches, see :func:`fdi_lib.training.alone.fit`.

    Raises:
        ManifestError: the data can't be used, or the kind of data isn't supported yet.
        RunConflictError: the output is not this training's.
        WeightsError: the base, encoder or bank is missing.
        DivergedError: the loss is not a number; the last checkpoint is kept.
    """
    if manifest.data.kind != "clean":
        raise ManifestError(
            "base and encoder are trained from clean pictures",
            key="data.kind",
            value=manifest.data.kind,
            remedy="use kind: clean",
        )
    if manifest.initial and manifest.model == "base":
        raise ManifestError("a base starts from nothing", key="initial", value=manifest.initial, remedy="leave it out")
    check_recipes(manifest.data.degradations, "data.degradations")
    check_trackers(manifest.watch.trackers)
    output = local_folder(manifest.output)
    check_free(manifest)
    pictures = read_list(Path(manifest.data.pictures), Path(manifest.data.uri), "train")
    recipe = recipe_of(manifest, identity_of(pictures))
    if finished(manifest, recipe) is not None:
        return {"model": manifest.model, "task": manifest.task, "output": str(output), "already_done": True}
    # A folder for each recipe: another one never goes on from this one's checkpoint.
    work = local_folder(manifest.checkpoint.uri or f"{output}.training") / recipe[:12]
    settings = fit_settings(manifest)
    if manifest.model == "encoder":
        found = scene_tiles(pictures, manifest.seed)
        scenes = {kind: shared(tiles, work / f"{kind}.npy", workers) for kind, tiles in found.items()}
        count = sum(len(tiles) for tiles in scenes.values())
        _encoder(manifest, scenes, settings, work, workers).save_pretrained(output)
    else:
        tiles = shared(training_tiles(pictures, TILE_PX, manifest.seed), work / "tiles.npy", workers)
        count = len(tiles)
        sizes, trackers = (manifest.batch, manifest.crop_px, manifest.seed), manifest.watch.trackers
        train_base(tiles, settings, *sizes, work, trackers=trackers, workers=workers).save_pretrained(output)
    shutil.copy(work / "log.jsonl", output / "training-log.jsonl")
    summary = {
        "model": manifest.model,
        "task": manifest.task,
        "training_sha256": recipe,
        "tiles": count,
        "pictures": len(pictures),
        "steps": manifest.steps,
        "batch": manifest.batch,
        "seed": manifest.seed,
        "last": _last(work / "log.jsonl"),
    }
    (output / "training.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary | {"output": str(output), "already_done": False}


def _encoder(manifest: TrainManifest, scenes: Scenes, settings: FitSettings, work: Path, workers: int) -> Encoder:
    return train_encoder(
        scenes,
        manifest.data.degradations,
        settings,
        manifest.batch,
        manifest.seed,
        work,
        favoured=manifest.data.favoured,
        versions=manifest.data.versions,
        start=Encoder.from_pretrained(on_this_machine(manifest.initial, "initial")) if manifest.initial else None,
        trackers=manifest.watch.trackers,
        workers=workers,
    )


def _last(log: Path) -> dict[str, Any]:
    lines = log.read_text().splitlines()
    return dict(json.loads(lines[-1])) if lines else {}
