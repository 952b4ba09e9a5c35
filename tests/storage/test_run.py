"""A folder belongs to one run: what may change on resume, what may not, and how the difference is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.errors import RunConflictError
from fdi_lib.manifest import RestoreManifest
from fdi_lib.storage import run as runs
from fdi_lib.storage.store import ObjectEntry

MODELS = {
    "preset": "compact",
    "base": {"sha256": "b" * 64, "licence": "Apache-2.0"},
    "adapters": {"noise": {"sha256": "c" * 64}},
}
PROFILE = {"device": "cpu", "threads": 1, "shape": (8, 3, 512, 512)}
LISTING = runs.fingerprint([ObjectEntry("a.tar", 10, "v1")])


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., RestoreManifest]:
    def make(**blocks: Any) -> RestoreManifest:
        places = {"source": {"uri": str(tmp_path / "in")}, "output": {"uri": str(tmp_path / "out")}}
        return RestoreManifest.model_validate({"kind": "restore", **places, **blocks})

    return make


def test_new_run_writes_what_it_is(manifest, tmp_path: Path) -> None:
    run = runs.open_run(manifest(), MODELS, PROFILE)
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert info == run.info
    assert info["manifest"]["restore"]["tile_px"] == 512 and info["models"] == MODELS
    assert info["finished"] is None and info["ignored"] == {} and info["numeric_profile"]["shape"] == [8, 3, 512, 512]
    assert info["versions"]["ray"] and "python" in info["versions"]
    assert run.started.tzinfo == UTC and run.started.microsecond == 0
    assert run.source.uri == str(tmp_path / "in")


def test_same_identity_resumes(manifest) -> None:
    first = runs.open_run(manifest(), MODELS, PROFILE)
    moved = {**MODELS, "base": {"sha256": "b" * 64, "path": "/elsewhere"}}
    again = runs.open_run(manifest(pools={"restore": {"max": 2}}, limits={"timeout_s": 5.0}), moved, PROFILE)
    assert again.started == first.started
    assert again.info["manifest"]["pools"]["restore"]["max"] == 2


@pytest.mark.parametrize(
    ("blocks", "models", "expected"),
    [
        ({"restore": {"steps": 4}}, MODELS, 'restore.steps is "auto" there, 4 here'),
        ({"classify": {"unknown": "keep"}}, MODELS, 'classify.unknown is "review" there, "keep" here'),
        ({"restore": {"adapters": {"noise": {"strength": 0.5}}}}, MODELS, "noise.strength is absent there, 0.5"),
        ({"restore": {"redetect": True}}, MODELS, "restore.redetect is false there, true here"),
        ({"gates": {"enabled": False}}, MODELS, "gates.enabled is true there, false here"),
        ({}, {**MODELS, "adapters": {"noise": {"sha256": "d" * 64}}}, "models.adapters.noise.sha256 is"),
        ({}, {**MODELS, "adapters": {}}, "models.adapters.noise.sha256 is"),
        ({}, {**MODELS, "adapters": {**MODELS["adapters"], "haze": {"sha256": "e" * 64}}}, "haze.sha256 is absent"),
    ],
)  # fmt: skip
def test_another_identity_is_refused_by_name(manifest, blocks, models, expected: str) -> None:
    runs.open_run(manifest(), MODELS, PROFILE)
    with pytest.raises(RunConflictError) as caught:
        runs.open_run(manifest(**blocks), models, PROFILE)
    assert expected in str(caught.value) and caught.value.exit_code == 2


def test_every_difference_is_named(manifest, tmp_path: Path) -> None:
    runs.open_run(manifest(), MODELS, PROFILE)
    with pytest.raises(RunConflictError) as caught:
        runs.open_run(manifest(source={"uri": "/other"}, restore={"seed": 1, "mode": "composite"}), MODELS, PROFILE)
    assert f'source.uri is "{tmp_path}/in" there, "/other" here' in str(caught.value)
    assert "restore.seed" in str(caught.value) and "restore.mode" in str(caught.value)


def test_another_numeric_profile_is_refused(manifest) -> None:
    runs.open_run(manifest(), MODELS, PROFILE)
    with pytest.raises(RunConflictError, match=r"numeric_profile\.threads is 1 there, 2 here"):
        runs.open_run(manifest(), MODELS, {**PROFILE, "threads": 2})


def test_output_of_nobody_is_refused(manifest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(RunConflictError, match=r"not empty and holds no run\.json \(found thesis\.txt\)"):
        runs.open_run(manifest(), MODELS, PROFILE)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["thesis.txt"]


def test_a_plan_may_come_first(manifest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.parquet").write_bytes(b"")
    runs.open_run(manifest(), MODELS, PROFILE)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema_version": 99}'])
def test_unreadable_description(manifest, tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(content)
    with pytest.raises(RunConflictError, match=r"run\.json"):
        runs.open_run(manifest(), MODELS, PROFILE)


def test_no_run(manifest) -> None:
    settings = manifest().output
    with pytest.raises(RunConflictError, match="name the output of a run"):
        runs.load_run_at(settings.uri, settings.storage)


def test_finish(manifest) -> None:
    run = runs.open_run(manifest(), MODELS, PROFILE)
    assert not run.is_done(LISTING)
    runs.finish_run(run, {"txt": 2, "": 1}, LISTING, images=3)
    again = runs.open_run(manifest(), MODELS, PROFILE)
    assert again.is_done(LISTING)
    assert not again.is_done(runs.fingerprint([ObjectEntry("a.tar", 10, "v2")]))
    assert again.info["ignored"] == {"": 1, "txt": 2} and again.info["images"] == 3
    assert again.info["finished"] >= again.info["opened"]


def test_fingerprint_counts_and_tells_apart() -> None:
    entries = [ObjectEntry("a", 1, "x"), ObjectEntry("b", 2, "y")]
    found = runs.fingerprint(entries)
    assert (found["objects"], found["bytes"]) == (2, 3)
    others = [entries[:1], entries[::-1], [ObjectEntry("a", 1, "x"), ObjectEntry("b", 2, "z")]]
    assert len({found["sha256"], *(runs.fingerprint(o)["sha256"] for o in others)}) == 4


def test_source_date_epoch(manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    run = runs.open_run(manifest(), MODELS, PROFILE)
    assert run.started == datetime(1970, 1, 2, tzinfo=UTC) and run.info["started"] == "1970-01-02T00:00:00Z"
    assert run.info["opened"] > "2020"


def test_finding_a_run_writes_nothing(manifest: Callable[..., RestoreManifest], tmp_path: Path) -> None:
    assert runs.find_run(manifest(), MODELS, PROFILE) is None
    assert not (tmp_path / "out").exists()
    opened = runs.open_run(manifest(), MODELS, PROFILE)
    found = runs.find_run(manifest(), MODELS, PROFILE)
    assert found is not None and found.info == opened.info
