"""A bank from recipes without Ray: what it can't do is refused, and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.training.bank_made import main


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
