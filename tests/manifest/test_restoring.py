"""Settings for single adapters: what they may be, what is refused, and where the message points."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import RestoreManifest, RestoreSettings, load_manifest

TEXT = "kind: restore\nsource: {uri: /in}\noutput: {uri: /out}\nrestore:\n  adapters:\n    noise:\n      %s\n"


def load(tmp_path: Path, line: str, *overrides: str) -> RestoreManifest:
    (tmp_path / "m.yaml").write_text(TEXT % line)
    found = load_manifest(str(tmp_path / "m.yaml"), overrides)
    assert isinstance(found, RestoreManifest)
    return found


def test_settings_of_single_adapters(tmp_path: Path) -> None:
    settings = load(tmp_path, "strength: 0.5", "restore.adapters.jpeg.enabled=false").restore
    assert settings.strengths == {"noise": 0.5}
    assert settings.disabled == {"jpeg"}
    assert RestoreSettings().strengths == {} and not RestoreSettings().disabled


def test_an_unknown_key_or_value_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"m\.yaml:7: restore\.adapters\.noise\.step.*did you mean.*noise\.steps\?"):
        load(tmp_path, "step: 4")
    with pytest.raises(ManifestError, match=r"m\.yaml:7: restore\.adapters\.noise\.start_t = '1\.5'.*In place of"):
        load(tmp_path, "start_t: 1.5")
    with pytest.raises(ManifestError, match=r"restore\.adapters"):
        load(tmp_path, "steps: 4", "restore.adapters.a+b.steps=2")


def test_an_adapter_that_is_not_there_is_refused_with_those_that_are() -> None:
    settings = RestoreSettings(adapters={"nose": {"steps": 2}})
    with pytest.raises(ManifestError, match=r"adapters\.nose: no adapter of this name; use some of: jpeg, noise"):
        settings.check_adapters({"noise", "jpeg"})
    RestoreSettings(adapters={"noise": {}}).check_adapters(["noise"])


def test_looking_again_needs_one_adapter_after_another() -> None:
    assert RestoreSettings(redetect=True).redetect
    with pytest.raises(ValidationError, match="one adapter after another"):
        RestoreSettings(redetect=True, mode="composite")
