"""`make weights` trains everything that is shipped, in an order that works, and says what failed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.manifest import load_manifest
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.presets import compact_folder
from jobs.training import weights


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        commands.append(list(command[2:]))

    monkeypatch.setattr(weights.subprocess, "run", run)
    return commands


def test_all_that_is_shipped_is_trained_once_after_what_it_needs(ran: list[list[str]]) -> None:
    assert weights.main(["--at-once", "5", "--workers", "3"]) == 0
    modules = [command[0] for command in ran]
    assert modules == ["jobs.training.alone"] * 2 + ["jobs.training.bank_made"] + ["jobs.training.alone"] * 5
    trained = [Path(word).stem for command in ran for word in command if "/train/compact/" in word]
    assert set(trained[:2]) == {"base", "encoder"}
    assert len(trained) == len(set(trained))
    shipped = [path.parent.name for path in compact_folder().glob("*/*/adapter.safetensors")]
    assert sorted(trained[2:]) == sorted(shipped)
    assert not any(word.startswith("models.bank=") for command in ran for word in command)  # the one just made


def test_the_shipped_bank_knows_every_adapter_that_is_shipped() -> None:
    bank = ReferenceBank.from_pretrained(compact_folder() / "bank")
    assert set(bank.names) == set(weights.ADAPTERS)
    manifest: Any = load_manifest(weights.BANK, ["synthetic.uri=/pictures"], "bank")
    assert set(manifest.synthetic.degradations) - set(manifest.synthetic.spread_only) == set(bank.names)
    assert bank.whole_only == set(manifest.synthetic.whole_only) < set(bank.names)
    assert all(bank.with_entry_of(compact_folder() / "adapters" / name) is bank for name in bank.names)
    assert bank.whole_N.any() and not bank.whole_N.all() and (bank.mixed_MK.sum(1) == 2).all()


def test_the_exit_code_is_that_of_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(weights.subprocess, "run", run)
    assert weights.main([]) == 2


@pytest.mark.parametrize("name", weights.ADAPTERS)
def test_every_adapter_goes_where_it_is_shipped(name: str) -> None:
    manifest: Any = load_manifest(str(weights.MANIFESTS / f"{name}.yaml"), ["data.uri=/pictures"], "train")
    assert (compact_folder().parents[2] / manifest.output / "adapter.safetensors").is_file()
