"""The whole job over the whole corpus: it ends, every image is accounted for, and nothing of it leaves the output."""

from __future__ import annotations

import json
import os
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fdi_lib.manifest import StorageSettings
from fdi_lib.records import Reason, Status
from jobs import failed, restore, verify
from tests.hostile.cases import DECODED, LIMIT_MP
from tests.hostile.corpus import Source, lay_out
from tests.jobs.test_restore import PARTS, manifest_for, rows_of

# The fakes restore the honest picture; of damage that was not noticed they may think anything.
MADE = {Status.RESTORED}
THOUGHT = {Status.RESTORED, Status.CLEAN, Status.REVIEW}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> tuple[Path, Source, dict[str, Any]]:
    """A folder with ``in`` and ``out``, what the source holds, and the job's summary."""
    folder = tmp_path_factory.mktemp("job")
    source = lay_out(folder / "in")
    limits = {"max_failed_fraction": 1.0, "max_pixels_mp": LIMIT_MP, "wait_s": 30.0}
    summary = restore.run(manifest_for(folder / "in", folder / "out", limits=limits), PARTS)
    return folder, source, summary


def expected(source: Source, image_id: str) -> set[tuple[str, str]]:
    """(status, reason) that an image may have."""
    found: set[tuple[str, str]] = set()
    for outcome in source.images[image_id]:
        if outcome == DECODED:
            statuses = THOUGHT if image_id in source.altered else MADE
            found |= {(status, Reason.NONE) for status in statuses - {Status.REVIEW}}
            found |= {(Status.REVIEW, reason) for reason in (Reason.UNKNOWN, Reason.GATE) if Status.REVIEW in statuses}
        else:
            found.add((Status.KEPT if outcome == Reason.UNSUPPORTED_PIXELS else Status.FAILED, outcome))
    return found


def test_every_image_has_its_status_and_reason(ran: tuple[Path, Source, dict[str, Any]]) -> None:
    folder, source, summary = ran
    rows = rows_of(folder / "out")
    assert summary["images"] == len(rows) == source.count
    assert sum(summary[status.value] for status in Status) == summary["images"] and not summary["stopped_early"]
    wrong = {
        image_id: (row["status"], row["reason"], row["detail"])
        for image_id, row in rows.items()
        if image_id in source.images and (row["status"], row["reason"]) not in expected(source, image_id)
    }
    assert not wrong
    assert not source.images.keys() - rows.keys()
    assert not [row for row in rows.values() if "please report" in (row["detail"] or "")], "a reader's own mistake"
    others = [row for image_id, row in rows.items() if image_id not in source.images]
    assert {(row["status"], row["reason"]) for row in others} == {(Status.FAILED, Reason.UNSAFE_NAME)}
    assert Counter(row["shard"] for row in others) == +source.unsafe


def test_what_is_no_image_is_counted(ran: tuple[Path, Source, dict[str, Any]]) -> None:
    folder, source, _ = ran
    assert json.loads((folder / "out/run.json").read_text())["ignored"] == source.ignored


def test_nothing_lies_outside_the_output(ran: tuple[Path, Source, dict[str, Any]]) -> None:
    folder, _, _ = ran
    assert sorted(path.name for path in folder.iterdir()) == ["in", "out"]
    out = folder / "out"
    for path, folders, files in os.walk(out):
        assert not [name for name in [*folders, *files] if os.path.islink(os.path.join(path, name))]
    for row in rows_of(out).values():
        if row["output_uri"]:
            assert os.path.realpath(row["output_uri"]).startswith(f"{out}/") and os.path.isfile(row["output_uri"])
    assert not [name for name in os.listdir("/etc") if "escape" in name]


def test_each_is_told_and_verifies(ran: tuple[Path, Source, dict[str, Any]]) -> None:
    folder, source, summary = ran
    out = folder / "out"
    assert verify.run(str(out), StorageSettings())["found"] == []
    assert len(list((out / "failed").rglob("*.json"))) == summary["failed"]
    listed = failed.run(str(out), StorageSettings())
    assert listed["failed"] == summary["failed"] and listed["reasons"]["unsafe_name"] == source.unsafe.total()
    text = failed.text(listed)
    assert all(character.isprintable() or character == "\n" for character in text), "a name steers the terminal"


class Page(HTMLParser):
    """What of a page a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.live: list[str] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag in ("script", "iframe", "object", "embed", "svg", "base", "link", "form", "a"):
            self.live.append(tag)
        for name, value in attrs:
            inline = name == "src" and (value or "").startswith("data:image/jpeg;base64,")
            if name.startswith("on") or (name in ("href", "src", "action", "srcset", "xlink:href") and not inline):
                self.live.append(f"{tag} {name}={value}")


def test_no_name_comes_alive_in_the_report(ran: tuple[Path, Source, dict[str, Any]]) -> None:
    folder, _, _ = ran
    text = (folder / "out/report/index.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.live == []
    assert page.tags["img"] > 10 and page.tags["tr"] > 100  # it has been understood
    assert "&lt;script&gt;alert(1)" in text, "no hostile name is shown at all: nothing was tried"
    assert not [c for c in text if not c.isprintable() and c != "\n"], "a name changes how the page reads"


def test_a_second_run_finds_nothing_to_do(ran: tuple[Path, Source, dict[str, Any]]) -> None:
    folder, source, summary = ran
    limits = {"max_failed_fraction": 1.0, "max_pixels_mp": LIMIT_MP, "wait_s": 30.0}
    again = restore.run(manifest_for(folder / "in", folder / "out", limits=limits), PARTS)
    assert again["already_done"] == again["images"] == summary["images"] == source.count and again["units"] == 0
