"""The model of clean photographs on disk: the shipped one, and files that are not one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fdi_lib.core.niqe import FEATURES, Pristine
from fdi_lib.errors import WeightsError
from fdi_lib.models.pristine import PRISTINE_FOLDER, load_pristine, save_pristine


def test_shipped_model_is_one() -> None:
    shipped = load_pristine()
    assert shipped.patch_px == 64
    assert np.linalg.eigvalsh(shipped.covariance_FF).min() > 0
    np.testing.assert_allclose(shipped.covariance_FF, shipped.covariance_FF.T)
    about = json.loads((PRISTINE_FOLDER / "config.json").read_text())
    assert about["patches"] > 10 * FEATURES
    assert "CC0" in (PRISTINE_FOLDER / "README.md").read_text()
    assert sum(path.stat().st_size for path in PRISTINE_FOLDER.iterdir()) < 50_000


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = Pristine(np.arange(FEATURES) / 7, np.eye(FEATURES) / 3, 48)
    save_pristine(made, tmp_path / "model", {"patches": 5})
    read = load_pristine(tmp_path / "model")
    assert read.patch_px == 48
    np.testing.assert_array_equal(read.mean_F, made.mean_F)
    np.testing.assert_array_equal(read.covariance_FF, made.covariance_FF)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"niqe\.safetensors: not found; .*jobs\.training\.niqe_model"):
        load_pristine(tmp_path)
    (tmp_path / "niqe.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(WeightsError, match="not readable as safetensors"):
        load_pristine(tmp_path)
    arrays = {"mean": np.zeros(FEATURES), "covariance": np.eye(FEATURES)}
    save_file(arrays, tmp_path / "niqe.safetensors")
    with pytest.raises(WeightsError, match=r"config\.json: not found"):
        load_pristine(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"config\.json: expected patch_px"):
        load_pristine(tmp_path)
    (tmp_path / "config.json").write_text('{"patch_px": 64}')
    load_pristine(tmp_path)
    save_file(arrays | {"mean": np.zeros(18)}, tmp_path / "niqe.safetensors")
    with pytest.raises(WeightsError, match=r"expected mean and covariance of 36 features, found .*18"):
        load_pristine(tmp_path)
