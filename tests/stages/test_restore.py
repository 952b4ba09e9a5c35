"""A unit's images are written, refused or set aside, each with its row; doing it again changes nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import pyvips
from PIL import Image

from fdi_lib.core.decision import Decision, Restored
from fdi_lib.manifest import RestoreManifest
from fdi_lib.records import DECISION
from fdi_lib.stages.restore import Restore
from fdi_lib.storage.ledger import load_effective
from tests import fakes

RUN = {"started": "2026-11-23T00:00:00Z", "versions": {"fdi-restore": "0.1"}, "manifest": {}}


class World:
    """A source folder, an output, and units for them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.source, self.output = folder / "in", folder / "out"
        self.source.mkdir(parents=True, exist_ok=True)
        base = {"kind": "restore", "source": {"uri": str(self.source)}, "output": {"uri": str(self.output)}}
        self.manifest = RestoreManifest.model_validate(base | settings)

    def row(self, name: str, route: str = "noise", size: int = 32, **columns: Any) -> dict[str, Any]:
        path = self.source / name
        pixels = np.random.default_rng(len(name)).integers(90, 110, (size, size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        data = path.read_bytes()
        empty = dict.fromkeys(DECISION.names) | {"scores": [], "pages": [], "reason": "", "detail": "", "shard": ""}
        return empty | {
            "image_id": name, "source_uri": str(path), "object": str(path), "kind": "file", "status": "",
            "source_sha256": hashlib.sha256(data).hexdigest(), "source_bytes": len(data), "width": size, "height": size,
            "verdict": "single", "route": route, "composition": f"{route}:1.00" if route else "",
        } | columns  # fmt: skip

    def work(self, rows: list[dict[str, Any]], restorer: Any = None, attempt: int = 1) -> dict[str, dict[str, Any]]:
        stage = Restore(self.manifest, RUN, (lambda: restorer) if restorer else None)
        self.counts = stage(pa.Table.from_pylist(rows, schema=DECISION), attempt)
        return {row["image_id"]: row for row in load_effective(stage.outputs.store).to_pylist()}


def test_a_unit_is_written_and_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = [world.row("a.png"), world.row("bb.png")]
    found = world.work(rows, fakes.FakeRestorer())
    assert world.counts["restored"] == world.counts["images"] == 2 and world.counts["loads"] == 1
    before = {path: path.read_bytes() for path in (world.output / "images").iterdir()}
    assert sorted(path.name for path in before) == ["a.png", "a.png.json", "bb.png", "bb.png.json"]
    assert hashlib.sha256(before[world.output / "images/a.png"]).hexdigest() == found["a.png"]["output_sha256"]
    assert world.work(rows[:1], fakes.FakeRestorer())["a.png"]["output_sha256"] == found["a.png"]["output_sha256"]
    assert {path: path.read_bytes() for path in (world.output / "images").iterdir()} == before


def test_clean_and_kept_are_byte_copies_and_need_no_model(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = [world.row("a.png", "", status="clean"), world.row("b.png", "", status="kept", reason="unknown")]
    world.work(rows)
    assert (world.counts["clean"], world.counts["kept"]) == (1, 1)
    for name in ("a.png", "b.png"):
        assert (world.output / "images" / name).read_bytes() == (world.source / name).read_bytes()


def test_a_missing_source_fails_alone_and_a_changed_one_gets_no_row(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = [world.row("changed.png"), world.row("gone.png"), world.row("good.png")]
    (world.source / "changed.png").write_bytes((world.source / "good.png").read_bytes())
    (world.source / "gone.png").unlink()
    found = world.work(rows, fakes.FakeRestorer())
    assert {name: row["reason"] for name, row in found.items()} == {"gone.png": "missing_source", "good.png": ""}
    assert world.counts["changed"] == ["changed.png"] and world.counts["images"] == 2
    assert sorted(path.name for path in (world.output / "failed").iterdir()) == ["gone.png.json"]
    assert not (world.output / "images/changed.png").exists()
    world.work(rows[:1], fakes.FakeRestorer())
    assert (world.counts["changed"], world.counts["images"]) == (["changed.png"], 0)


@pytest.mark.parametrize(("on_fail", "status"), [("review", "review"), ("keep_original", "kept")])
def test_a_blank_candidate_is_refused(tmp_path: Path, on_fail: str, status: str) -> None:
    world = World(tmp_path, gates={"on_fail": on_fail})
    row = world.work([world.row("a.png")], fakes.BlankRestorer())["a.png"]
    assert (row["status"], row["reason"]) == (status, "gate")
    assert [gate["ok"] for gate in row["gates"] if gate["name"] == "not_blank"] == [False]
    assert (world.output / "review/a.png").exists() == (status == "review")
    assert (world.output / "images/a.png").exists() == (status == "kept")


class Odd(fakes.FakeRestorer):
    """Does to images of a certain height what a test wants."""

    def restore_each(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: Any = None
    ) -> list[Restored]:
        made = super().restore_each(images, decisions, noise_keys)
        return [self.odd(one) if image.shape[0] == 40 else one for image, one in zip(images, made, strict=True)]

    def odd(self, one: Restored) -> Restored:
        return one


class Diverging(Odd):
    def odd(self, one: Restored) -> Restored:
        return Restored(None, one.decision, 0.75)


class Cropping(Odd):
    def odd(self, one: Restored) -> Restored:
        assert one.pixels is not None
        return Restored(one.pixels[:-1], one.decision)


@pytest.mark.parametrize("on_fail", ["review", "keep_original"])
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("restorer", "reason", "gate"),
    [(Diverging, "bad_output", ("finite", 0.75)), (Cropping, "gate", ("same_shape", 0.0))],
)
def test_what_is_not_sound_is_never_written_whatever_the_settings(
    tmp_path: Path, restorer: Any, reason: str, gate: tuple[str, float], enabled: bool, on_fail: str
) -> None:
    world = World(tmp_path, gates={"enabled": enabled, "on_fail": on_fail})
    found = world.work([world.row("a.png"), world.row("b.png", size=40), world.row("c.png")], restorer())
    odd, status = found["b.png"], "review" if on_fail == "review" else "kept"
    assert [found[name]["status"] for name in ("a.png", "b.png", "c.png")] == ["restored", status, "restored"]
    assert odd["reason"] == (reason if on_fail == "review" else "gate")
    assert [(g["name"], g["value"]) for g in odd["gates"] if not g["ok"]] == [gate]
    if status == "kept":
        assert (world.output / "images/b.png").read_bytes() == (world.source / "b.png").read_bytes()
    else:
        assert not (world.output / "images/b.png").exists()
        told = json.loads((world.output / "review/b.png.json").read_text())
        assert told["gates"] == odd["gates"] and told["detail"]


@pytest.mark.parametrize("shape", [(33, 70), (31, 17, 3), (1, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_stays_grey_and_size_and_depth_stay(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    world = World(tmp_path)
    path = world.source / "a.png"
    row = world.row("a.png")
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    pyvips.Image.new_from_array(pixels).pngsave(str(path), bitdepth=pixels.itemsize * 8)
    data = path.read_bytes()
    row |= {"source_sha256": hashlib.sha256(data).hexdigest(), "source_bytes": len(data)}
    assert world.work([row], fakes.FakeRestorer())["a.png"]["status"] == "restored"
    made = pyvips.Image.new_from_file(str(world.output / "images/a.png")).numpy()
    assert made.shape == shape and made.dtype == dtype


def test_every_gate_is_in_ledger_and_sidecar_with_value_and_limit(tmp_path: Path) -> None:
    world = World(tmp_path)
    gates = world.work([world.row("a.png")], fakes.FakeRestorer())["a.png"]["gates"]
    assert [gate["name"] for gate in gates] == ["finite", "same_shape", "not_blank", "brightness", "structure"]
    assert all(gate["ok"] and np.isfinite(gate["value"]) for gate in gates)
    sidecar = json.loads((world.output / "images/a.png.json").read_text())
    assert [gate["limit"] for gate in sidecar["gates"]] == pytest.approx([gate["limit"] for gate in gates])
    world = World(tmp_path / "off", gates={"enabled": False})
    gates = world.work([world.row("a.png")], fakes.BlankRestorer())["a.png"]["gates"]
    assert [gate["name"] for gate in gates] == ["finite", "same_shape"]


def test_what_was_really_done_is_what_is_written_down(tmp_path: Path) -> None:
    class Stopping(Odd):
        def odd(self, one: Restored) -> Restored:
            done = replace(one.decision, adapters=one.decision.adapters[:1])
            return replace(one, decision=done, note="looks clean after noise:1.00: left out haze")

    world = World(tmp_path)
    row = world.row("a.png", "noise>haze", size=40) | {"composition": "noise:1.00>haze:1.00", "verdict": "mixture"}
    found = world.work([row], Stopping())["a.png"]
    assert (found["status"], found["route"], found["composition"]) == ("restored", "noise>haze", "noise:1.00")
    assert [adapter["name"] for adapter in found["adapters"]] == ["noise"] and found["steps"] == 4
    assert found["detail"] == "looks clean after noise:1.00: left out haze"
    sidecar = json.loads((world.output / "images/a.png.json").read_text())
    assert sidecar["classification"]["composition"] == "noise:1.00" and sidecar["restoration"]["steps"] == 4
    assert b"restored with noise:1.00<" in (world.output / "images/a.png").read_bytes()


def test_another_image_under_the_same_name_is_a_conflict(tmp_path: Path) -> None:
    world = World(tmp_path)
    row = world.row("a.png", "", status="clean")
    world.work([row])
    other = world.row("other.png", "", status="clean", size=16) | {"image_id": "x/a.png"}
    (world.output / "images/x").mkdir()
    (world.output / "images/x/a.png").write_bytes(b"somebody else's")
    (world.output / "images/x/a.png.json").write_bytes(b"{}")
    assert world.work([other])["x/a.png"]["reason"] == "output_conflict"
    assert (world.output / "images/x/a.png").read_bytes() == b"somebody else's"


def test_a_format_change_keeps_the_old_extension_where_names_would_meet(tmp_path: Path) -> None:
    world = World(tmp_path, output={"uri": str(tmp_path / "out"), "image": {"format": "tiff"}})
    Image.new("RGB", (8, 8)).save(world.source / "a.tiff")
    world.work([world.row("a.png"), world.row("b.png")], fakes.FakeRestorer())
    names = sorted(path.name for path in (world.output / "images").iterdir() if path.suffix != ".json")
    assert names == ["a.png.tiff", "b.tiff"]
