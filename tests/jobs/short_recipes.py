"""A recipe for haze on a few small pictures, in place of the shipped ones; import ``out`` to use it as a fixture."""

# ruff: noqa: F811 - `preset` is a fixture that lies with the tests of the models
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
import yaml

from jobs.benches import recipes
from tests.models.conftest import preset  # noqa: F401 - a fixture

SPLITS = ("train", "train", "train", "calibration", "test")


def clean_data(folder: Path) -> dict[str, str]:
    """Write clean pictures, ``pictures/NUMBER.png`` by split, and their list; return a manifest's section for them."""
    rows = ["picture\tgroup_id\tkind\tsha256\tsplit"]
    (folder / "pictures").mkdir()
    for i, split in enumerate(SPLITS):
        pixels = np.kron(np.random.default_rng(i).integers(90, 160, (20, 20, 3)), np.ones((30, 30, 1)))
        data = pyvips.Image.new_from_array(pixels.astype(np.uint8), interpretation="srgb").pngsave_buffer()
        (folder / "pictures" / f"{i}.png").write_bytes(data)
        rows.append(f"{i}.png\tg{i}\tphoto\t{hashlib.sha256(data).hexdigest()}\t{split}")
    (folder / "list.tsv").write_text("\n".join(rows))
    return {"kind": "clean", "uri": str(folder / "pictures"), "pictures": str(folder / "list.tsv")}


@pytest.fixture
def out(tmp_path: Path, preset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the recipe in place; returns an output folder beside its pictures, see :func:`clean_data`."""
    data = clean_data(tmp_path)
    models = {"encoder": str(preset / "encoder"), "base": str(preset / "base"), "bank": str(preset / "bank")}
    (tmp_path / "haze.yaml").write_text(yaml.safe_dump({
        "kind": "train", "task": "haze", "models": models, "output": str(tmp_path / "adapter"), "batch": 2,
        "data": data,
        "crop_px": 32,
    }))  # fmt: skip
    monkeypatch.setattr(recipes, "_RECIPES", str(tmp_path / "{}.yaml"))
    return tmp_path / "out"
