"""What benches of adapters share: a shipped recipe made short, a task's degraded tiles, training in this process.

Knows no Ray. Does NOT know what is compared, nor how it is scored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fdi_lib.core.protocol import Sample, degrade_tile, spread
from fdi_lib.manifest import TrainManifest, load_manifest
from fdi_lib.models.device import accelerator
from fdi_lib.training.adapter import AdapterTraining, train_adapter
from fdi_lib.training.crops import PairSource
from fdi_lib.training.pictures import Split
from jobs.evaluate import split_tiles
from jobs.training.plan import Plan

TILE_PX = 256
_RECIPES = "manifests/train/compact/{}.yaml"
_SEED = 0  # of the protocol, as in manifests/evaluate/compact.yaml


def recipe(task: str, *changes: str) -> TrainManifest:
    """The shipped recipe of a task, with ``KEY=VALUE`` changes.

    Raises:
        ManifestError: there is none.
    """
    manifest: Any = load_manifest(_RECIPES.format(task), changes, "train")
    return manifest


def short(task: str, steps: int, checkpoint_every: int, *changes: str) -> TrainManifest:
    """The recipe with so many steps, of which a quarter warm up: its schedule ends with them. Errors as above."""
    given = (f"steps={steps}", f"warmup_steps={steps // 4}", f"checkpoint.every_steps={checkpoint_every}")
    return recipe(task, *given, *changes)


def degraded(manifest: TrainManifest, split: Split, count: int, tile_px: int = TILE_PX) -> list[Sample]:
    """Tiles of one split of the recipe's pictures with its degradation, by the protocol of ``fdi evaluate``.

    Args:
        manifest: the recipe.
        split: of the photographs.
        count: of tiles; all there are, if fewer.
        tile_px: their side.

    Raises:
        ManifestError: a picture is missing or altered, or none is large enough.
    """
    name = manifest.data.degradation or manifest.task
    assert name is not None, "the manifest's own check"
    tiles = split_tiles(manifest.data.pictures, manifest.data.uri, split, tile_px)
    return [degrade_tile([name], tile, _SEED) for tile in spread(tiles, count, _SEED)]


def trained(plan: Plan, pairs: PairSource, folder: Path) -> AdapterTraining:
    """The plan's adapter on its base, trained by the trainer's own function; an interrupted training goes on.

    Args:
        plan: of the training.
        pairs: to learn from.
        folder: of its checkpoints; those of other settings are not gone on from.
    """
    m, model = plan.manifest, plan.model().to(accelerator())
    folder = folder.with_name(f"{folder.name}-{plan.recipe[:12]}")
    train_adapter(
        model, pairs, plan.settings, batch=m.batch, crop_px=m.crop_px, seed=m.seed, folder=folder, echo=m.echo
    )
    return model.cpu()
