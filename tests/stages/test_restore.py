"""A unit's images are written, refused or set aside, each with its row; doing it again changes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fdi_lib.core.decision import Decision
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
        self.source.mkdir(exist_ok=True)
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


def test_a_changed_or_missing_source_fails_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = [world.row("changed.png"), world.row("gone.png"), world.row("good.png")]
    (world.source / "changed.png").write_bytes((world.source / "good.png").read_bytes())
    (world.source / "gone.png").unlink()
    found = world.work(rows, fakes.FakeRestorer())
    assert [found[name]["reason"] for name in ("changed.png", "gone.png", "good.png")] == [
        "source_changed", "missing_source", "",
    ]  # fmt: skip
    assert sorted(path.name for path in (world.output / "failed").iterdir()) == ["changed.png.json", "gone.png.json"]


@pytest.mark.parametrize(("on_fail", "status"), [("review", "review"), ("keep_original", "kept")])
def test_a_blank_candidate_is_refused(tmp_path: Path, on_fail: str, status: str) -> None:
    world = World(tmp_path, gates={"on_fail": on_fail})
    row = world.work([world.row("a.png")], fakes.BlankRestorer())["a.png"]
    assert (row["status"], row["reason"]) == (status, "gate")
    assert [gate["ok"] for gate in row["gates"] if gate["name"] == "not_blank"] == [False]
    assert (world.output / "review/a.png").exists() == (status == "review")
    assert (world.output / "images/a.png").exists() == (status == "kept")


def test_an_image_that_comes_out_not_finite_waits_for_review_and_its_mates_are_restored(tmp_path: Path) -> None:
    class Diverging(fakes.FakeRestorer):
        def restore(
            self, images: list[np.ndarray], decisions: list[Decision], noise_keys: Any = None
        ) -> list[np.ndarray]:
            if any(image.shape[0] == 40 for image in images):
                raise FloatingPointError("not finite")
            return super().restore(images, decisions, noise_keys)

    world = World(tmp_path)
    found = world.work([world.row("a.png"), world.row("b.png", size=40), world.row("c.png")], Diverging())
    assert [found[name]["status"] for name in ("a.png", "b.png", "c.png")] == ["restored", "review", "restored"]
    assert found["b.png"]["reason"] == "bad_output"


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
