"""Adapters are listed from their files alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fdi_lib.errors import WeightsError
from fdi_lib.manifest import StorageSettings
from jobs import adapters

CARD = "---\nmodel-index:\n- name: x\n  results:\n  - metrics:\n    - {type: psnr_gain_db, value: 9.1}\n---\n# Haze\n"


def _adapter(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"task": "haze", "base_sha256": "b" * 64, "encoder_sha256": "e" * 64})
    )
    (folder / "README.md").write_text(CARD)
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.zeros(4, np.float16)}, folder / "adapter.safetensors")


def test_list(tmp_path: Path) -> None:
    _adapter(tmp_path / "haze")
    (tmp_path / "notes.txt").write_text("not an adapter")
    found = adapters.run(str(tmp_path), StorageSettings())
    assert len(found["adapters"]) == 1
    one = found["adapters"][0]
    assert (one["name"], one["task"], one["parameters"], one["metrics"]) == ("haze", "haze", 10, {"psnr_gain_db": 9.1})
    assert one["encoder_sha256"] == "e" * 64 and "b" * 12 + "  " + "e" * 12 in adapters.text(found)
    assert "psnr_gain_db 9.1" in adapters.text(found)
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "config.json").write_text('{"names": []}')
    assert adapters.run(str(tmp_path), StorageSettings()) == found


def test_not_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no adapter here"):
        adapters.run(str(tmp_path), StorageSettings())
    _adapter(tmp_path / "haze")
    (tmp_path / "haze/adapter.safetensors").write_bytes(b"\x80\x04pickle, say")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        adapters.run(str(tmp_path), StorageSettings())
    (tmp_path / "haze/adapter.safetensors").unlink()
    with pytest.raises(WeightsError, match="incomplete"):
        adapters.run(str(tmp_path), StorageSettings())
