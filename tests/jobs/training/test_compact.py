"""``fdi train`` of base and encoder: the picture list, the steps, the trackers, the part that looks at tones."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import TrainManifest
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.encoder import COMPACT, Encoder
from fdi_lib.training.tones import train_tones
from jobs import cards
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


def tones_of(pictures: Path, initial: Path, output: Path) -> dict[str, Any]:
    data = {"uri": str(pictures), "pictures": str(pictures / "list.tsv"), "degradations": ["haze", "noise"]}
    return compact.run(
        manifest(pictures, output, model="encoder", only="tones", initial=str(initial), data={"kind": "clean", **data})
    )


def test_what_looks_at_tones_is_trained_alone_and_says_so(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "train_tones", partial(train_tones, pictures=16))
    initial = Encoder(COMPACT)
    initial.save_pretrained(tmp_path / "initial")
    (tmp_path / "initial/training-log.jsonl").write_text("{}\n")
    known = {"steps": 7, "batch": 2, "seed": 3, "pictures": 5, "last": {"step": 7, "loss": 0.25}}
    (tmp_path / "initial/training.json").write_text(json.dumps(known))

    summary = tones_of(pictures, tmp_path / "initial", tmp_path / "first")
    assert summary["rest"] == known and summary["only"] == "tones"
    assert summary["initial_sha256"] == [file_sha256(tmp_path / "initial/encoder.safetensors")]
    assert (tmp_path / "first/training-log.jsonl").read_text() == "{}\n"
    before, after = (Encoder.from_pretrained(tmp_path / name) for name in ("initial", "first"))
    assert after.tones is not None and after.width == before.width + 2
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    assert tones_of(pictures, tmp_path / "initial", tmp_path / "first")["already_done"]
    facts = cards._facts(tmp_path / "first", None)
    assert facts["training"].startswith("7 steps of 2") and facts["went on from"].endswith("tones")

    again = tones_of(pictures, tmp_path / "first", tmp_path / "second")  # of one that has such a part
    assert again["rest"] == known
    (tmp_path / "second/training.json").unlink()
    unknown = tones_of(pictures, tmp_path / "second", tmp_path / "third")
    assert "rest" not in unknown and "training" not in cards._facts(tmp_path / "third", None)


def test_a_damaged_initial_encoder_is_refused_by_name(pictures: Path, tmp_path: Path) -> None:
    Encoder(COMPACT).save_pretrained(tmp_path / "initial")
    (tmp_path / "initial/training.json").write_text("{")
    with pytest.raises(WeightsError, match=r"training.json: not JSON"):
        tones_of(pictures, tmp_path / "initial", tmp_path / "new")
    (tmp_path / "initial/config.json").write_text(json.dumps(COMPACT | {"tones": {"width": 8}}))
    with pytest.raises(WeightsError, match=r"config.json: no configuration of an encoder"):
        tones_of(pictures, tmp_path / "initial", tmp_path / "new")
    with pytest.raises(WeightsError, match=r"initial: .*encoder.safetensors not found"):
        tones_of(pictures, tmp_path / "nowhere", tmp_path / "new")
