"""The other kinds: rules between their blocks, and the shipped manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fdi_lib.manifest import KINDS, TrainManifest, load_manifest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted(ROOT.glob("manifests/**/*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_shipped_manifests_parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDI_DATA", "/pictures")
    assert load_manifest(str(path)).kind in KINDS


def train(**keys: object) -> TrainManifest:
    return TrainManifest.model_validate(
        {"kind": "train", "task": "noise", "data": {"uri": "/d"}, "output": "/o", **keys}
    )


def test_train() -> None:
    assert train(workers=[1, 8]).workers == (1, 8)
    for wrong in ({"workers": [8, 1]}, {"workers": 0}, {"task": None}, {"task": "a+b"}, {"output": "/d/adapter"}):
        with pytest.raises(ValidationError):
            train(**wrong)
    assert train(model="base", task=None).task is None
