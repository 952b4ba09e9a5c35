"""`make weights` trains everything that is shipped, in an order that works, and says what failed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.manifest import load_manifest
from fdi_lib.models.presets import compact_folder
from jobs.training import weights


class _Bank:
    """A bank that remembers what it was asked to leave out, and where it went."""

    left_out: tuple[str, ...] = ()

    def without(self, name: str) -> _Bank:
        self.left_out += (name,)
        return self

    def save_pretrained(self, folder: Path) -> None:
        assert folder.parts[-3:] == ("weights", "compact", "bank")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        commands.append(list(command[2:]))

    monkeypatch.setattr(weights.subprocess, "run", run)
    return commands


def test_all_that_is_shipped_is_trained_once_after_what_it_needs(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bank = _Bank()
    monkeypatch.setenv("FDI_DATA", str(tmp_path))
    monkeypatch.setattr(weights.ReferenceBank, "from_pretrained", lambda folder: bank)
    assert weights.main(["--work", str(tmp_path), "--at-once", "5", "--workers", "3"]) == 0
    modules = [command[0] for command in ran]
    assert modules == ["jobs.training.alone"] * 2 + ["jobs.training.bank_made"] + ["jobs.training.alone"] * 5
    trained = [Path(word).stem for command in ran for word in command if "/train/compact/" in word]
    assert set(trained[:2]) == {"base", "encoder"}
    assert len(trained) == len(set(trained))
    shipped = [path.parent.name for path in compact_folder().glob("*/*/adapter.safetensors")]
    assert sorted(trained[2:]) == sorted(shipped)
    assert all(f"models.bank={tmp_path / 'bank'}" in command for command in ran[3:])
    assert not set(bank.left_out) & {path.name for path in (compact_folder() / "adapters").iterdir()}


def test_the_exit_code_is_that_of_what_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(weights.subprocess, "run", run)
    assert weights.main(["--work", str(tmp_path)]) == 2


@pytest.mark.parametrize("name", weights.ADAPTERS)
def test_every_adapter_goes_where_it_is_shipped(name: str) -> None:
    manifest: Any = load_manifest(str(weights.MANIFESTS / f"{name}.yaml"), ["data.uri=/pictures"], "train")
    assert (compact_folder().parents[2] / manifest.output / "adapter.safetensors").is_file()
