"""The command that fits NIQE's model, from a list of pictures to the folder that `fdi evaluate` reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import pyvips
import skimage.data

from fdi_lib.core.niqe import niqe
from fdi_lib.core.protocol import as_float
from fdi_lib.models.pristine import load_pristine
from jobs.training.niqe_model import main

HEADER = "picture\tgroup_id\tkind\tsource_repository\tlicence\tsha256\tsplit"


def listed(folder: Path, pictures: dict[str, tuple[np.ndarray, str, str]], header: str = HEADER) -> Path:
    """Write pictures (pixels, kind, split) and their list."""
    rows = [header]
    for name, (pixels, kind, split) in pictures.items():
        data = pyvips.Image.new_from_array(pixels).jpegsave_buffer(Q=95)
        (folder / name).write_bytes(data)
        rows.append(f"{name}\t{name}\t{kind}\tan/archive\tCC0-1.0\t{hashlib.sha256(data).hexdigest()}\t{split}")
    (folder / "list.tsv").write_text("\n".join(rows))
    return folder / "list.tsv"


def texture(seed: int) -> np.ndarray:
    """Leaves' worth of detail, 512 px, equally sharp everywhere."""
    rng = np.random.default_rng(seed)
    return np.repeat(np.repeat(rng.integers(30, 220, (256, 256, 3)), 2, 0), 2, 1).astype(np.uint8)


def test_model_is_fitted_to_training_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs = {"a.jpg": (texture(0), "photo", "train"), "b.jpg": (texture(1), "photo", "train")}
    others = {"c.jpg": (texture(2), "plate", "train"), "d.jpg": (texture(3), "photo", "test")}
    table = listed(tmp_path, photographs | others)
    command = [str(tmp_path), "--pictures", str(table), "--output"]
    assert main([*command, str(tmp_path / "all")]) == 0
    about = json.loads((tmp_path / "all" / "config.json").read_text())
    assert about == {"patch_px": 64, "patches": 2 * 7 * 7, "pictures": 2, "reduction": 2, "sharpness": 0.75}
    assert "patches 98" in capsys.readouterr().out
    card = (tmp_path / "all" / "README.md").read_text()
    assert "an/archive (CC0-1.0, 2 files)" in card
    assert hashlib.sha256((tmp_path / "all" / "niqe.safetensors").read_bytes()).hexdigest() in card

    made = load_pristine(tmp_path / "all")
    astronaut = as_float(skimage.data.astronaut())
    like, unlike = niqe(as_float(texture(4)[::2, ::2]), made), niqe(astronaut, made)
    assert like is not None and unlike is not None and like < unlike / 2

    listed(tmp_path, photographs)
    assert main([*command, str(tmp_path / "alone")]) == 0
    alone = load_pristine(tmp_path / "alone")
    np.testing.assert_array_equal(alone.covariance_FF, made.covariance_FF)


def test_lists_that_give_no_model_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "model"
    command = [str(tmp_path), "--pictures", str(tmp_path / "list.tsv"), "--output", str(output)]
    assert main(command) == 2
    assert "picture list not found" in capsys.readouterr().err
    listed(tmp_path, {"a.jpg": (texture(0)[:256, :256], "photo", "train")})
    assert main(command) == 2
    assert "9 sharp patches do not determine" in capsys.readouterr().err
    listed(tmp_path, {"a.jpg": (texture(0), "plate", "train")})
    assert main(command) == 2
    assert "0 sharp patches do not determine" in capsys.readouterr().err
    listed(tmp_path, {"a.jpg": (texture(0), "photo", "train")}, HEADER.replace("licence", "note"))
    assert main(command) == 2
    assert "names no source_repository or licence" in capsys.readouterr().err
    assert not output.exists()
