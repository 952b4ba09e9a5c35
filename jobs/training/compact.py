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
from fdi_lib.models.configs import read_json
from fdi_lib.models.encoder import COMPACT_TONES, Encoder
from fdi_lib.training.base import train_base
from fdi_lib.training.encoder import train_encoder
from fdi_lib.training.pictures import Picture, identity_of, read_list, scene_tiles, shared, training_tiles
from fdi_lib.training.scenes import Scenes
from fdi_lib.training.tones import train_tones
from jobs.training.checks import check_recipes, check_trackers
from jobs.training.data import TILE_PX
from jobs.training.output import check_free, finished
from jobs.training.plan import fit_settings, recipe_of, went_on_from
from jobs.training.storage import local_folder

_LOG = "training-log.jsonl"


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
    with_tones = (f"tones {COMPACT_TONES}",) if manifest.model == "encoder" else ()  # trained last, by no dial
    recipe = recipe_of(manifest, identity_of(pictures), *with_tones)
    if finished(manifest, recipe) is not None:
        return {"model": manifest.model, "task": manifest.task, "output": str(output), "already_done": True}
    # A folder for each recipe: another one never goes on from this one's checkpoint.
    work = local_folder(manifest.checkpoint.uri or f"{output}.training") / recipe[:12]
    summary = {
        "model": manifest.model,
        "task": manifest.task,
        "training_sha256": recipe,
        "pictures": len(pictures),
        "seed": manifest.seed,
        **went_on_from(manifest),  # before the output replaces it
    }
    train = _base if manifest.model == "base" else _tones if manifest.only else _encoder
    summary |= train(manifest, pictures, work, workers, output)
    (output / "training.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary | {"output": str(output), "already_done": False}


def _base(m: TrainManifest, pictures: list[Picture], work: Path, workers: int, output: Path) -> dict[str, Any]:
    tiles = shared(training_tiles(pictures, TILE_PX, m.seed), work / "tiles.npy", workers)
    sizes, trackers = (m.batch, m.crop_px, m.seed), m.watch.trackers
    base = train_base(tiles, fit_settings(m), *sizes, work, trackers=trackers, workers=workers)
    base.save_pretrained(output)
    return {"tiles": len(tiles)} | _fitted(m, work, output)


def _encoder(m: TrainManifest, pictures: list[Picture], work: Path, workers: int, output: Path) -> dict[str, Any]:
    """What looks at tones is trained after the rest, of which it knows nothing."""
    scenes = _scenes(m, pictures, work, workers)
    encoder = train_encoder(
        scenes,
        m.data.degradations,
        fit_settings(m),
        m.batch,
        m.seed,
        work,
        favoured=m.data.favoured,
        versions=m.data.versions,
        start=Encoder.from_pretrained(on_this_machine(m.initial, "initial")) if m.initial else None,
        trackers=m.watch.trackers,
        workers=workers,
    )
    return _with_tones(m, encoder, scenes, workers, output) | _fitted(m, work, output)


def _tones(m: TrainManifest, pictures: list[Picture], work: Path, workers: int, output: Path) -> dict[str, Any]:
    """The rest stays what it is, with its log, and what is known of its training."""
    initial = on_this_machine(m.initial or "", "initial")
    encoder = Encoder.from_pretrained(initial)
    log, known = (initial / name for name in (_LOG, "training.json"))
    trained = read_json(known, "an encoder's folder") if known.is_file() else {}
    rest = {"rest": trained.get("rest", trained)} if trained else {}
    summary = _with_tones(m, encoder, _scenes(m, pictures, work, workers), workers, output)
    if initial.resolve() != output.resolve():
        (output / _LOG).unlink(missing_ok=True)  # of what lay there before
        if log.is_file():
            shutil.copy(log, output / _LOG)
    return summary | rest


def _with_tones(m: TrainManifest, encoder: Encoder, scenes: Scenes, workers: int, output: Path) -> dict[str, Any]:
    size_px, favoured = encoder.view_spec.size_px, m.data.favoured
    tones, loss = train_tones(
        COMPACT_TONES, scenes, m.data.degradations, size_px, m.seed, favoured=favoured, workers=workers
    )
    encoder.with_tones(tones).save_pretrained(output)
    return {"tiles": sum(map(len, scenes.values())), "tones_loss": round(loss, 4)}


def _scenes(m: TrainManifest, pictures: list[Picture], work: Path, workers: int) -> Scenes:
    found = scene_tiles(pictures, m.seed)
    return {kind: shared(tiles, work / f"{kind}.npy", workers) for kind, tiles in found.items()}


def _fitted(m: TrainManifest, work: Path, output: Path) -> dict[str, Any]:
    """The loop's log, and what ``training.json`` says of it."""
    shutil.copy(work / "log.jsonl", output / _LOG)
    return {"steps": m.steps, "batch": m.batch, "last": _last(work / "log.jsonl")}


def _last(log: Path) -> dict[str, Any]:
    lines = log.read_text().splitlines()
    return dict(json.loads(lines[-1])) if lines else {}
