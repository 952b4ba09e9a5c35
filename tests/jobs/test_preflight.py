"""What can't work is found before anything is started, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.errors import ManifestError, StorageRefusedError
from fdi_lib.manifest import RestoreManifest, RestoreSettings
from jobs.parts import Parts
from jobs.preflight import preflight
from tests import fakes

PARTS = Parts(fakes.describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)


def manifest(source: Path, output: str, **settings: Any) -> RestoreManifest:
    base = {"kind": "restore", "source": {"uri": str(source)} | settings, "output": {"uri": output}}
    return RestoreManifest.model_validate(base)


def test_models_are_described_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    found = preflight(manifest(tmp_path / "in", str(tmp_path / "out")), PARTS)
    assert sorted(found["adapters"]) == ["haze", "noise", "scratch"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_adapter_that_is_not_there_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri,adapter\na.png,noise\nb.png,mould\n")
    wanted = manifest(tmp_path / "list.csv", str(tmp_path / "out"), format="inventory")
    with pytest.raises(ManifestError, match=r"list\.csv:3: adapter = 'mould': .* haze, noise, scratch"):
        preflight(wanted, PARTS)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_an_output_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(StorageRefusedError, match=r"/proc/x: .* another place") as refused:
        preflight(manifest(tmp_path / "in", "/proc/x"), PARTS)
    assert refused.value.exit_code == 2


def test_settings_for_an_adapter_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    wanted = manifest(tmp_path / "in", str(tmp_path / "out"))
    restore = RestoreSettings(adapters={"mould": {"strength": 0.5}})
    with pytest.raises(ManifestError, match=r"restore\.adapters\.mould: .* haze, noise, scratch") as refused:
        preflight(wanted.model_copy(update={"restore": restore}), PARTS)
    assert refused.value.exit_code == 2


def test_an_inventory_may_not_name_what_is_disabled(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri,adapter\na.png,noise\n")
    wanted = manifest(tmp_path / "list.csv", str(tmp_path / "out"), format="inventory")
    restore = RestoreSettings(adapters={"noise": {"enabled": False}})
    with pytest.raises(ManifestError, match=r"list\.csv:2: adapter = 'noise': .* haze, scratch"):
        preflight(wanted.model_copy(update={"restore": restore}), PARTS)


@pytest.mark.parametrize(
    ("sets", "said"),
    [((), "none of"), (("haze", "noise"), "haze + noise of")],
)
def test_adapters_that_were_not_trained_together_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sets: tuple[str, ...], said: str
) -> None:
    (tmp_path / "in").mkdir()
    wanted = manifest(tmp_path / "in", str(tmp_path / "out"))
    composite = wanted.model_copy(update={"restore": RestoreSettings(mode="composite")})

    def describe(models: Any) -> dict[str, Any]:
        found: dict[str, Any] = fakes.describe(models)
        for name in sets:
            found["adapters"][name] = {"together": list(sets)}
        return found

    parts = Parts(describe, fakes.view_spec, fakes.make_classifier, fakes.make_restorer)
    preflight(wanted, parts)
    assert "trained together" not in caplog.text
    preflight(composite, parts)
    assert f"trained together: {said} haze, noise, scratch" in caplog.text


def test_adapters_that_were_all_trained_together_need_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    wanted = manifest(tmp_path / "in", str(tmp_path / "out"))
    names = ("haze", "noise")
    parts = Parts(lambda models: {"adapters": {name: {"together": names} for name in names}})
    preflight(wanted.model_copy(update={"restore": RestoreSettings(mode="composite")}), parts)
    assert "trained together" not in caplog.text


def test_adapters_whose_companions_are_elsewhere_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    wanted = manifest(tmp_path / "in", str(tmp_path / "out"))
    parts = Parts(lambda models: {"adapters": {n: {"together": (n, f"{n}2")} for n in ("haze", "noise")}})
    preflight(wanted.model_copy(update={"restore": RestoreSettings(mode="composite")}), parts)
    assert "trained together: haze + haze2, noise + noise2 of haze, noise" in caplog.text
