"""The page stands alone, shows every stratum, and runs nothing that a file name says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from fdi_lib.manifest import StorageSettings
from jobs import report
from tests.jobs.finished_run import Archive, finished_run, jpeg


def test_page(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    found = report.run(output, StorageSettings())
    page = Path(output, "report/index.html").read_text()
    assert found["images"] == 6 and found["pictures"] == 5
    assert page.count("data:image/jpeg;base64,") == 7  # two pairs, clean, kept, and a review without a candidate
    assert "haze &gt; noise" in page and "haze:1.00 &gt; noise:0.71" in page
    assert "empty_file" in page and "b" * 64 in page and "Apache-2.0" in page
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "<b>odd</b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "url(" not in page, "needs another file"


def test_page_is_the_same_again(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    report.run(output, StorageSettings())
    first = Path(output, report.PAGE).read_bytes()
    report.run(output, StorageSettings())
    assert Path(output, report.PAGE).read_bytes() == first


def test_sample_takes_turns() -> None:
    rows = [
        {"image_id": f"{route}{n}", "status": "restored", "route": route, "shard": "", "composition": ""}
        for route, count in (("noise", 500), ("haze", 3), ("jpeg", 40))
        for n in range(count)
    ]

    class Table:
        def to_pylist(self) -> list[dict[str, str]]:
            return list(rows)

    chosen = report._sample(Table(), 20)  # type: ignore[arg-type]
    assert sorted(Counter(row["route"] for row in chosen).values()) == [3, 8, 9]


def test_gone_and_broken_pictures_leave_empty_frames(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add("1.jpg", jpeg(1), "restored", b"no picture", route="noise", composition="noise:1.00")
    archive.add("2.jpg", jpeg(2), "restored", jpeg(3), route="noise", composition="noise:1.00")
    output = archive.finish()
    (tmp_path / "in/2.jpg").unlink()
    (tmp_path / "out/images/2.jpg").unlink()
    report.run(output, StorageSettings())
    assert Path(output, report.PAGE).read_text().count("no picture") == 3


def test_run_without_rows(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    assert report.run(str(archive.output), StorageSettings())["images"] == 0


def test_gates_are_shown_with_their_values_and_limits(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for name, value in (("1.jpg", 0.9), ("2.jpg", 0.4567), ("3.jpg", 0.05)):
        ok = value >= 0.1
        gates = [
            {"name": "finite", "value": 1.0, "limit": 1.0, "ok": True},
            {"name": "structure", "value": value, "limit": 0.5 if value > 0.8 else 0.1, "ok": ok},
        ]
        refused = {} if ok else {"reason": "gate", "detail": "refused by: structure"}
        archive.add(name, jpeg(1), "restored" if ok else "review", jpeg(2), route="noise", gates=gates, **refused)
    archive.add("4.jpg", jpeg(4), "clean", jpeg(4))
    page = report.run(archive.finish(), StorageSettings())["report"]
    shown = re.sub(r"<[^>]+>|\s+", " ", Path(page).read_text()).split()
    assert shown[shown.index("finite") :][:6] == ["finite", "3", "0", "1", "1", "structure"]
    assert shown[shown.index("structure") :][:9] == ["structure", "3", "1", "0.05", "to", "0.9", "0.1", "to", "0.5"]
    assert "refused by: structure" in Path(page).read_text()
