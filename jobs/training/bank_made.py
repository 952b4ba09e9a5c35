"""``python -m jobs.training.bank_made MANIFEST``: a reference bank from clean pictures and recipes that damage them.

The command is ``fdi bank build`` for a machine without Ray: its GPU computes the features, ``--workers`` processes
damage the pictures.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.manifest import BankManifest, load_manifest
from fdi_lib.manifest.data import SyntheticPairSettings
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.device import accelerator
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.presets import encoder_files
from fdi_lib.training.bank import build_bank
from fdi_lib.training.encoder import quantised
from fdi_lib.training.pictures import Picture, cut_grid, read_list, scene_tiles, whole_pictures
from fdi_lib.training.scenes import clean_scene, pale
from jobs.training.storage import local_folder

# Sizes of the clean images that the bank knows, as (reduction, side in px): people bring small and large ones.
_CUTS = ((2, 256), (2, 512), (3, 384), (4, 256))
_GARMENT_CUTS = ((2, 192),)
_PER_PICTURE = 24
_SCENE_SIDES, _CONTENT, _REFERENCES = (192, 256), 2400, 300
_PALE = 300  # made skies, a ninth as for tones: noise on a pale sky isn't noise and haze (docs/decisions/0021)


def made_bank(
    manifest: BankManifest, made: SyntheticPairSettings, encoder: Encoder, encoder_sha256: str, workers: int = 0
) -> tuple[ReferenceBank, dict[str, Any]]:
    """Draw content and references as the encoder's training does; thresholds come from the calibration split.

    Neither the encoder nor the references have seen that.
    """
    table, root = Path(made.pictures), Path(made.uri)
    rng = np.random.default_rng(manifest.seed)
    scenes = scene_tiles(read_list(table, root, "train"), manifest.seed)
    content = [quantised(clean_scene(scenes, rng, _SCENE_SIDES)) for _ in range(_CONTENT)]
    reference = content[:_REFERENCES]
    apart = np.random.default_rng([manifest.seed, 1])
    skies = [quantised(pale(int(apart.choice(_SCENE_SIDES)), apart)) for _ in range(_PALE)]
    calibration = read_list(table, root, "calibration")
    held_out, weights = _clean_images(calibration, rng)
    whole, whole_weights = _whole(calibration)
    build = partial(
        build_bank,
        encoder,
        encoder_sha256,
        made.degradations,
        content,
        reference,
        held_out,
        weights,
        whole=whole,
        whole_weights=whole_weights,
        clean_false_positive_rate=made.clean_false_positive_rate,
        seed=manifest.seed,
        prototypes=manifest.prototypes,
        mixed=set(made.degradations) - set(made.spread_only) - set(made.whole_only),
        mixture_references=made.mixture_references,
        beside=skies,
        workers=workers,
    )
    bank, monochrome = (_as_used(build(monochrome=one_colour), made) for one_colour in (False, True))
    bank = replace(bank, monochrome=monochrome)
    return bank, {"content": len(content), "references": len(reference), "held_out": len(held_out), "whole": len(whole)}


def _as_used(bank: ReferenceBank, made: SyntheticPairSettings) -> ReferenceBank:
    """The bank with the degradations that are looked for, where they are."""
    for name in made.spread_only:
        bank = bank.without(name)
    return replace(bank, whole_only=frozenset(made.whole_only))


def _clean_images(pictures: list[Picture], rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Tiles of several sizes and reductions, at most a fixed number from each photograph.

    Returns:
        The tiles and their weights: photographs count alike however many tiles one gives, because the tiles of a
        picture are not independent; garments on plain grounds, which no archive is made of, don't count.
    """
    images: list[np.ndarray] = []
    owners: list[Picture] = []
    for picture in pictures:
        found: list[np.ndarray] = []
        for reduction, side in _GARMENT_CUTS if picture.kind == "garment" else _CUTS:
            found += [tile for tile in cut_grid(picture.load(reduction), side) if tile.std() > 4]
        chosen = rng.permutation(len(found))[: _PER_PICTURE if picture.kind == "photo" else 1]
        images += [found[i] for i in chosen]
        owners += [picture] * len(chosen)
    tiles = Counter(owner.group_id for owner in owners)
    return images, np.array([(owner.kind != "garment") / tiles[owner.group_id] for owner in owners])


def _whole(pictures: list[Picture]) -> tuple[list[np.ndarray], list[float]]:
    """Whole photographs, each at several reductions, and their weights: photographs count alike."""
    found = list(whole_pictures(pictures))
    sizes = Counter(picture.group_id for picture, _ in found)
    return [image for _, image in found], [1 / sizes[picture.group_id] for picture, _ in found]


def main(argv: list[str]) -> int:
    """Build the bank that a manifest describes; print what it holds."""
    parser = ArgumentParser(prog="python -m jobs.training.bank_made", description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("changes", nargs="*", metavar="key=value")
    parser.add_argument("--workers", type=int, default=0, help="processes that damage pictures")
    options = parser.parse_args(argv)
    try:
        manifest = load_manifest(options.manifest, options.changes, "bank")
        assert isinstance(manifest, BankManifest), "the kind that was asked for"
        if manifest.synthetic is None or manifest.merge:
            raise ManifestError("pairs and merging need Ray", key="synthetic", remedy="use `fdi bank build`")
        files = encoder_files(manifest.models.encoder)
        encoder = files.load().to(accelerator())
        bank, summary = made_bank(manifest, manifest.synthetic, encoder, files.sha256, options.workers)
        bank.save_pretrained(local_folder(manifest.output))
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ManifestError) else 1
    print(json.dumps({"output": manifest.output, **summary}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
