"""``fdi bank build`` and ``fdi bank show``: reference pairs to a reference bank, and what a bank holds."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import BankManifest
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.presets import compact_folder, file_sha256
from fdi_lib.training.bank import build_bank
from fdi_lib.training.pictures import Picture, cut_grid, read_list

# Sizes of the clean images that the bank knows, as (reduction, side in px): people bring small and large ones.
_CUTS = ((2, 256), (2, 512), (3, 384), (4, 256))
_GARMENT_CUTS = ((2, 192),)
_PER_PICTURE, _REFERENCES = 24, 240


def build(manifest: BankManifest) -> dict[str, Any]:
    """Build a bank and write its folder.

    Content and references are cut from the train split; thresholds come from the calibration split, which neither the
    encoder nor the references have seen.

    Raises:
        ManifestError: the kind of pairs isn't supported yet, or pictures are missing.
        WeightsError: the encoder is missing.
    """
    made = manifest.synthetic
    if made is None:
        raise ManifestError(
            "this release builds banks from clean pictures", key="pairs", remedy="use synthetic: {degradations: [...]}"
        )
    folder = Path(manifest.models.encoder.uri) if manifest.models.encoder else compact_folder() / "encoder"
    encoder = Encoder.from_pretrained(folder)
    table, root = Path(made.pictures), Path(made.uri)
    rng = np.random.default_rng(manifest.seed)
    content, _ = _clean_images(read_list(table, root, "train"), rng)
    held_out, weights = _clean_images(read_list(table, root, "calibration"), rng)
    reference = [content[i] for i in rng.permutation(len(content))[:_REFERENCES]]
    bank = build_bank(
        encoder,
        file_sha256(folder / "encoder.safetensors"),
        made.degradations,
        content,
        reference,
        held_out,
        weights,
        clean_false_positive_rate=made.clean_false_positive_rate,
        seed=manifest.seed,
    )
    bank.save_pretrained(Path(manifest.output))
    return {
        "output": manifest.output,
        "content": len(content),
        "references": len(reference),
        "held_out": len(held_out),
        **show(manifest.output),
    }


def show(uri: str) -> dict[str, Any]:
    """What a bank holds: names, pairs, spread, thresholds and the largest cosine between two directions."""
    bank = ReferenceBank.from_pretrained(Path(uri))
    unit_KD = bank.geometry.unit_KD
    cosine_KK = unit_KD @ unit_KD.T - np.eye(len(unit_KD))
    t = bank.thresholds
    degradations = {
        name: {
            "pairs": int(bank.pairs_K[k]),
            "explained_by_mean": round(float(bank.spread_K[k]), 3),
            "amplitude": round(float(t.single_K[k]), 2),
            "limit": round(float(t.limit_K[k]), 2),
            "nearest": bank.names[int(cosine_KK[k].argmax())],
            "nearest_cosine": round(float(cosine_KK[k].max()), 3),
        }
        for k, name in enumerate(bank.names)
    }
    limits = {"unknown_energy": t.unknown_energy, "member": t.member}
    return {"encoder_sha256": bank.encoder_sha256, "degradations": degradations, **limits}


def _clean_images(pictures: list[Picture], rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Tiles of several sizes and reductions, at most a fixed number from each photograph; some are made grey.

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
    grey = np.array([0.299, 0.587, 0.114])
    for i in range(0, len(images), 8):
        images[i] = np.repeat(np.rint(images[i] @ grey).astype(np.uint8)[..., None], 3, axis=2)
    tiles = Counter(owner.group_id for owner in owners)
    return images, np.array([(owner.kind != "garment") / tiles[owner.group_id] for owner in owners])


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["bank", "build", *sys.argv[1:]]))
