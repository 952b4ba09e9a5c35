"""``fdi train`` of a base: the picture list, the steps, the trackers it is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import TrainManifest
from jobs.training import compact


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One listed picture, just large enough for a tile."""
    root = tmp_path_factory.mktemp("pictures")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)).save(root / "a.png")
    sha256 = hashlib.sha256((root / "a.png").read_bytes()).hexdigest()
    (root / "list.tsv").write_text(f"picture\tgroup_id\tkind\tsha256\tsplit\na.png\ta\tphoto\t{sha256}\ttrain\n")
    return root


def manifest(pictures: Path, output: Path, **keys: Any) -> TrainManifest:
    data = {"uri": str(pictures), "kind": "clean", "pictures": str(pictures / "list.tsv")}
    values = {"kind": "train", "model": "base", "data": data, "output": str(output), "steps": 1, "batch": 1,
              "crop_px": 32, "checkpoint": {"uri": str(output.parent / "work")}}  # fmt: skip
    return TrainManifest.model_validate(values | keys)


@pytest.mark.parametrize("trackers", [(), ("tensorboard",)])
def test_curves_of_a_base_go_to_the_trackers_that_are_named(
    pictures: Path, tmp_path: Path, trackers: tuple[str, ...]
) -> None:
    summary = compact.run(manifest(pictures, tmp_path / "base", watch={"trackers": list(trackers)}))
    assert summary["steps"] == 1 and (tmp_path / "base" / "base.safetensors").is_file()
    assert bool(list((tmp_path / "work").rglob("events.*"))) == bool(trackers)


def test_a_tracker_that_isn_t_installed_is_refused_first(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"mlflow.*not installed"):
        compact.run(manifest(pictures, tmp_path / "base", watch={"trackers": ["mlflow"]}))
    assert not list(tmp_path.iterdir())
