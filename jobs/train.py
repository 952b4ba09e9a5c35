"""``fdi train``: trains the compact base, the encoder, or an adapter from a manifest, in this process.

It resolves the manifest to data and models, calls one recipe of :mod:`fdi_lib.training`, and writes the weights' folder
last. A run that was interrupted goes on from its checkpoint when the same command is given again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import TrainManifest
from fdi_lib.models.adapter import AdapterConfig
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.base import Base
from fdi_lib.models.presets import compact_folder, file_sha256
from fdi_lib.training.adapter import synthetic_pairs, train_adapter
from fdi_lib.training.base import train_base
from fdi_lib.training.encoder import train_encoder
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.pictures import read_list, training_tiles

_TILE_PX = {"base": 144, "encoder": 192, "adapter": 144}


def run(manifest: TrainManifest) -> dict[str, Any]:
    """Train what the manifest names; return the summary.

    Raises:
        ManifestError: the data can't be used, or the kind of data isn't supported yet.
        WeightsError: the base, encoder or bank is missing.
        FloatingPointError: the loss became NaN; the last checkpoint is kept.
    """
    output = Path(manifest.output)
    recipe = hashlib.sha256(manifest.model_dump_json(exclude={"data": {"uri"}, "output": True}).encode()).hexdigest()
    done = output / "training.json"
    if done.exists() and json.loads(done.read_text())["training_sha256"] == recipe:
        return {"model": manifest.model, "task": manifest.task, "output": str(output), "already_done": True}
    if manifest.data.kind != "clean":
        raise ManifestError(
            "this release trains from clean pictures",
            key="data.kind",
            value=manifest.data.kind,
            remedy="use kind: clean with data.degradation",
        )
    work = Path(manifest.checkpoint.uri or f"{output}.training")
    pictures = read_list(Path(manifest.data.pictures), Path(manifest.data.uri), "train")
    tiles = training_tiles(pictures, _TILE_PX[manifest.model], manifest.seed)
    settings = FitSettings(
        manifest.steps,
        manifest.learning_rate,
        precision=manifest.precision,
        checkpoint_every_steps=manifest.checkpoint.every_steps,
    )
    if manifest.model == "base":
        train_base(tiles, settings, manifest.batch, manifest.crop_px, manifest.seed, work).save_pretrained(output)
    elif manifest.model == "encoder":
        train_encoder(tiles, manifest.data.degradations, settings, manifest.batch, manifest.seed, work).save_pretrained(
            output
        )
    else:
        _adapter(manifest, tiles, settings, work, output, recipe)
    shutil.copy(work / "log.jsonl", output / "training-log.jsonl")
    summary = {
        "model": manifest.model,
        "task": manifest.task,
        "training_sha256": recipe,
        "tiles": len(tiles),
        "pictures": len(pictures),
        "steps": manifest.steps,
        "batch": manifest.batch,
        "seed": manifest.seed,
        "last": _last(work / "log.jsonl"),
    }
    done.write_text(json.dumps(summary, indent=1) + "\n")
    return summary | {"output": str(output), "already_done": False}


def _adapter(manifest: TrainManifest, tiles: Any, settings: FitSettings, work: Path, output: Path, recipe: str) -> None:
    assert manifest.task is not None, "the manifest's own check"
    task, m = manifest.task, manifest.models
    preset = compact_folder()
    encoder = (Path(m.encoder.uri) if m.encoder else preset / "encoder") / "encoder.safetensors"
    base_folder = Path(m.base.uri) if m.base else preset / "base"
    bank = ReferenceBank.from_pretrained(Path(m.bank) if m.bank else preset / "bank", file_sha256(encoder))
    if task not in bank.names:
        raise ManifestError(
            "the bank has no FDI for it", key="task", value=task, remedy="add it with `fdi bank build` first"
        )
    base = Base.from_pretrained(base_folder)
    fdi = bank.tokens_of(task)
    config = AdapterConfig(
        task,
        tuple(base.channels),
        fdi_shape=(fdi.shape[0], fdi.shape[1]),
        latent_factor=base.latent_factor,
        init=manifest.init,
        start_t=manifest.start_t,
        training_sha256=recipe,
        base_sha256=file_sha256(base_folder / "base.safetensors"),
        encoder_sha256=file_sha256(encoder),
    )
    pairs = synthetic_pairs(tiles, manifest.data.degradation or task, manifest.crop_px, manifest.seed)
    adapter = train_adapter(base, config, torch.from_numpy(fdi), pairs, settings, manifest.batch, manifest.seed, work)
    bank.save_fdi(task, output)
    adapter.save_pretrained(output)


def _last(log: Path) -> dict[str, Any]:
    lines = log.read_text().splitlines()
    return dict(json.loads(lines[-1])) if lines else {}


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
