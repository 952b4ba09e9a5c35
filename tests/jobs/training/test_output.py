"""A training writes over nothing that isn't its own, and no two write the same."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from fdi_lib.errors import LeaseError, RunConflictError
from fdi_lib.manifest import StorageSettings, TrainManifest
from fdi_lib.storage import lease
from fdi_lib.storage.lease import FOLDER
from fdi_lib.storage.store import Store
from jobs.training.output import check_free, finished, one_at_a_time
from jobs.training.plan import absolute


def manifest(output: Path, **keys: object) -> TrainManifest:
    values = {"kind": "train", "task": "haze", "data": {"uri": "/pictures"}, "output": str(output)}
    return absolute(TrainManifest.model_validate(values | keys))


def put(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, told in files.items():
        text = told if isinstance(told, str) else json.dumps(told)
        (folder / name.replace("_json", ".json").replace("_md", ".md")).write_text(text)


@pytest.mark.parametrize(
    "files",
    [
        {"README_md": "my notes"},
        {"config_json": {"names": []}},
        {"config_json": "no json"},
        {"config_json": {"task": "haze"}},  # of another program: no recipe
        {"config_json": {"task": "noise", "training_sha256": "a"}},
        {"training_json": {"epochs": 3}},
        {"training_json": "no json"},
        {"training_json": [1]},
        {"training_json": {"task": "noise", "training_sha256": "a"}, "config_json": {"task": "haze"}},
    ],
)
def test_what_is_somebody_elses_stays(tmp_path: Path, files: dict[str, object]) -> None:
    put(tmp_path, **files)
    with pytest.raises(RunConflictError, match=r"is there, and .*replace=true"):
        check_free(manifest(tmp_path))
    check_free(manifest(tmp_path, replace=True))


def test_an_empty_folder_other_files_and_what_an_interrupted_run_left_are_free(tmp_path: Path) -> None:
    check_free(manifest(tmp_path / "new"))
    put(tmp_path / "notes", **{"notes.txt": "mine"})
    check_free(manifest(tmp_path / "notes"))
    put(tmp_path / "left", config_json={"task": "haze", "training_sha256": "a"}, README_md="card")
    check_free(manifest(tmp_path / "left"))
    assert finished(manifest(tmp_path / "left"), "a") is None


def test_another_recipe_is_replaced_only_where_that_is_said(tmp_path: Path) -> None:
    told = {"task": "haze", "training_sha256": "a" * 64, "steps": 12}
    put(tmp_path, training_json=told)
    check_free(manifest(tmp_path))
    assert finished(manifest(tmp_path), "a" * 64) == told
    with pytest.raises(RunConflictError, match=r"12 steps, recipe aaaaaaaaaaaa, now bbbbbbbbbbbb\).*replace=true"):
        finished(manifest(tmp_path), "b" * 64)
    assert finished(manifest(tmp_path, replace=True), "b" * 64) is None


def test_of_several_adapters_each_folder_is_looked_at(tmp_path: Path) -> None:
    several = {"task": None, "tasks": ["noise", "haze"]}
    told = {"task": "haze+noise", "training_sha256": "a"}
    put(tmp_path, training_json=told)
    put(tmp_path / "haze", training_json=told | {"task": "haze"})
    check_free(manifest(tmp_path, **several))
    assert finished(manifest(tmp_path, **several), "a") is None  # noise isn't there
    put(tmp_path / "noise", training_json=told | {"task": "noise"})
    assert finished(manifest(tmp_path, **several), "a") == told
    put(tmp_path / "noise", training_json=told | {"task": "rain"})
    with pytest.raises(RunConflictError, match=r"noise.*is there, and rain's"):
        check_free(manifest(tmp_path, **several))


def test_two_trainings_of_the_same_are_not_at_work_at_once(tmp_path: Path) -> None:
    one = manifest(tmp_path / "haze")
    with one_at_a_time(one):
        with pytest.raises(LeaseError, match="is at work on this output"), one_at_a_time(one):
            pass
        with one_at_a_time(manifest(tmp_path / "other")):
            pass
        shared = {"checkpoint": {"uri": str(tmp_path / "haze.training")}, "task": "noise"}
        with one_at_a_time(manifest(tmp_path / "noise", **shared)):
            pass
    with one_at_a_time(one):
        pass


def test_whoever_is_overtaken_stops_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEWALS", 60)
    one = manifest(tmp_path / "haze")
    store = Store.open(f"{tmp_path}/haze.training/haze", StorageSettings())
    holder = {"host": "elsewhere", "pid": "7", "started": "1", "machine": "another", "nonce": "n"}
    other = json.dumps({"holder": holder, "expires": time.time() + 600, "released": False})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts commands in the background
    try:
        with pytest.raises(LeaseError, match="another process trains this now"), one_at_a_time(one):
            threading.Timer(0.2, store.create, (f"{FOLDER}{99:012d}.json", other.encode())).start()
            time.sleep(60)  # a wait outside Python, that nothing but a signal ends
            raise AssertionError("it was not told")
    finally:
        signal.signal(signal.SIGINT, before)
