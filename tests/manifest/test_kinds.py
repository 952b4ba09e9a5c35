"""The other kinds: rules between their blocks, and the shipped manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fdi_lib.manifest import KINDS, BankManifest, TrainManifest, load_manifest

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


def test_adapters_that_are_trained_together() -> None:
    assert train(task=None, tasks=["noise", "haze"]).names == ("haze", "noise")
    assert train().names == ("noise",) and train(model="base", task=None).names == ()
    for wrong in (
        {"tasks": ["noise", "haze"]},
        {"task": None, "tasks": ["noise"]},
        {"task": None, "tasks": ["noise", "noise"]},
        {"task": None, "tasks": ["noise", "haze"], "data": {"uri": "/d", "kind": "pairs"}},
        {"task": None, "tasks": ["noise", "haze"], "data": {"uri": "/d", "degradation": "rain"}},
    ):
        with pytest.raises(ValidationError, match=r"trained together|mixtures are made"):
            train(**wrong)


def test_only_an_encoder_that_is_there_has_parts_to_leave_alone() -> None:
    encoder = {"model": "encoder", "task": None, "data": {"uri": "/d", "degradations": ["noise", "haze"]}}
    assert train(**encoder, only="tones", initial="/encoder").only == "tones"
    for wrong in ({**encoder, "only": "tones"}, {"only": "tones", "initial": "/adapter"}):
        with pytest.raises(ValidationError, match=r"has parts to leave alone"):
            train(**wrong)


def test_a_training_workers_cpus_are_what_ray_can_schedule() -> None:
    for cpus in (0.5, 1, 3):
        assert train(worker={"cpus": cpus}).worker.cpus == cpus
    with pytest.raises(ValidationError, match=r"worker.cpus\n  above 1 only whole numbers"):
        train(worker={"cpus": 1.5})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"spread_only": ["rain"]}, "rain is not among"),
        ({"spread_only": ["noise", "haze"]}, "nothing would be left"),
        ({"whole_only": ["rain"]}, "rain is not among"),
        ({"whole_only": ["noise", "haze"]}, "nothing would be left"),
        ({"whole_only": ["noise"], "spread_only": ["haze"]}, "nothing would be left"),
        ({"whole_only": ["noise"], "spread_only": ["noise"]}, "noise is in spread_only, too"),
    ],
)
def test_what_is_not_looked_for_everywhere_is_some_of_the_degradations(given: dict[str, list[str]], why: str) -> None:
    synthetic = {"uri": "/d", "degradations": ["noise", "haze"], **given}
    with pytest.raises(ValueError, match=why):
        BankManifest.model_validate({"kind": "bank", "synthetic": synthetic, "output": "/o"})


def test_a_synthetic_bank_has_no_dial_that_does_nothing() -> None:
    synthetic = {"uri": "/d", "degradations": ["noise"]}
    bank = {"kind": "bank", "synthetic": synthetic, "output": "/o"}
    assert BankManifest.model_validate(bank).synthetic is not None
    with pytest.raises(ValidationError, match="tile_px"):
        BankManifest.model_validate(bank | {"synthetic": synthetic | {"tile_px": 256}})
