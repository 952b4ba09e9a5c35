"""Adapters go on with another encoder's bank, and say what they were trained with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.presets import compact_folder
from jobs.training.carry_over import main


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Two shipped adapters, and the shipped bank as another encoder would have it."""
    for name in ("haze", "noise"):
        shutil.copytree(compact_folder() / "adapters" / name, tmp_path / "adapters" / name)
    bank = ReferenceBank.from_pretrained(compact_folder() / "bank")
    rng = np.random.default_rng(0)
    entries = [replace(e, tokens_TD=rng.normal(size=(16, 128)).astype(np.float32)) for e in bank.entries]
    assert bank.monochrome is not None
    monochrome = replace(bank.monochrome, encoder_sha256="f" * 64)
    bank = replace(bank, entries=tuple(entries), encoder_sha256="f" * 64, monochrome=monochrome)
    bank.save_pretrained(tmp_path / "bank")
    return [str(tmp_path / name) for name in ("adapters", "bank", "out")]


def test_adapters_belong_to_the_new_encoder_then(given, tmp_path, capsys):
    assert main(given) == 0 and "haze, noise" in capsys.readouterr().out
    bank = ReferenceBank.from_pretrained(tmp_path / "bank")
    assert (tmp_path / "bank/bank.safetensors").stat().st_mode & 0o777 == 0o644
    for name in ("haze", "noise"):
        before, after = tmp_path / "adapters" / name, tmp_path / "out" / name
        assert json.loads((after / "config.json").read_text())["encoder_sha256"] == "f" * 64
        trained, note = (json.loads((folder / "training.json").read_text()) for folder in (before, after))
        assert note["training_sha256"] == trained["training_sha256"] and note["trained_with_encoder_sha256"]
        assert (after / "fdi.safetensors").stat().st_mode & 0o777 == 0o644
        assert bank.with_entry_of(after) is bank and (after / "training-log.jsonl").is_file()


def test_what_can_t_be_used_is_told(given, tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), *given[1:]]) == 2
    assert "no adapters here" in capsys.readouterr().err
    assert main([*given[:2], given[0]]) == 2
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "adapters" / "haze").rename(tmp_path / "adapters" / "mould")
    assert main(given) == 2
    assert "the bank has no mould" in capsys.readouterr().err
