"""A bank from recipes without Ray: what it can't do is refused, and named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import pyvips

from fdi_lib.manifest import BankManifest
from fdi_lib.models.encoder import COMPACT, Encoder
from jobs.training import bank_made
from jobs.training.bank_made import made_bank, main


def test_pairs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bank.yaml"
    path.write_text(f"kind: bank\npairs: [{{task: haze, uri: {tmp_path / 'pairs'}}}]\noutput: {tmp_path / 'bank'}\n")
    assert main([str(path)]) == 2
    assert "fdi bank build" in capsys.readouterr().err


def test_missing_pictures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bank.yaml"
    path.write_text(
        f"kind: bank\nsynthetic: {{uri: {tmp_path}, pictures: {tmp_path}/none.tsv, degradations: [noise]}}\n"
        f"output: {tmp_path / 'bank'}\n"
    )
    assert main([str(path)]) == 2
    assert "picture list not found" in capsys.readouterr().err
    assert not (tmp_path / "bank").exists()


def test_whole_pictures_and_what_is_looked_for_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["picture\tgroup_id\tkind\tsource_repository\tlicence\tsha256\tsplit"]
    rng = np.random.default_rng(0)
    for name, split in (("a", "train"), ("b", "train"), ("c", "calibration"), ("d", "calibration")):
        coarse = rng.integers(40, 220, (17, 20, 3)).astype(np.uint8)
        data = pyvips.Image.new_from_array(coarse).resize(64, kernel="cubic").jpegsave_buffer(Q=95)
        (tmp_path / f"{name}.jpg").write_bytes(data)
        rows.append(f"{name}.jpg\t{name}\tphoto\there\tCC0\t{hashlib.sha256(data).hexdigest()}\t{split}")
    (tmp_path / "list.tsv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(bank_made, "_CONTENT", 24)
    monkeypatch.setattr(bank_made, "_REFERENCES", 12)
    monkeypatch.setattr(bank_made, "_PALE", 3)
    monkeypatch.setattr(bank_made, "_PER_PICTURE", 6)
    manifest = BankManifest.model_validate({
        "kind": "bank", "output": str(tmp_path / "bank"),
        "synthetic": {
            "uri": str(tmp_path), "pictures": str(tmp_path / "list.tsv"), "mixture_references": 4,
            "degradations": ["noise", "low_light", "jpeg", "shadow"], "whole_only": ["jpeg"],
            "spread_only": ["shadow"], "clean_false_positive_rate": 0.1,
        },
    })  # fmt: skip
    assert manifest.synthetic is not None
    bank, summary = made_bank(manifest, manifest.synthetic, Encoder(COMPACT), "0" * 64)
    assert bank.names == ("noise", "low_light", "jpeg") and bank.whole_only == {"jpeg"}
    assert bank.detail.geometry.names == ("noise", "low_light")
    # 1088 x 1280 px: at a half, a third and a quarter, but not a sixth, the shorter side has 192 px or more.
    assert summary["whole"] == bank.whole_N.sum() == 6 and not bank.whole_N[: summary["held_out"]].any()
    np.testing.assert_allclose(bank.weight_N[bank.whole_N], 1 / 3)
    assert bank.namer is not None and bank.namer.known_K.tolist() == [True, True, False]
    assert (bank.mixed_MK.sum(1) == 2).all()
    other = bank.monochrome
    assert other is not None and other.names == bank.names and other.whole_only == bank.whole_only
    assert other.namer is not None and other.namer.known_K.tolist() == [True, True, False]
    assert other.clean_ND.shape == bank.clean_ND.shape and (other.clean_ND != bank.clean_ND).any(axis=1).all()
    np.testing.assert_array_equal(other.weight_N, bank.weight_N)
