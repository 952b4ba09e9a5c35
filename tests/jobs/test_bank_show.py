"""``fdi bank show`` measures a bank's encoder from the bank's folder alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.entry import Content, Entry, Severities
from jobs import cli
from jobs.bank_show import run, text

WIDTH = 40
NAMES = ("haze", "noise", "scratch")


def made(lengths: tuple[float, ...], count: int = 60) -> ReferenceBank:
    """A bank of directions of these lengths in content of deviation one."""
    rng = np.random.default_rng(0)
    entries = []
    for k, length in enumerate(lengths):
        fdi = length * np.eye(WIDTH)[k]
        held = rng.normal(size=(count, WIDTH)) + fdi
        entries.append(Entry(NAMES[k], np.zeros((2, 4), np.float32), fdi, fdi / length, 0.5, 99, held))
    content = Content(np.zeros(WIDTH), np.eye(WIDTH), np.zeros((WIDTH, WIDTH)))
    weight = np.ones(300)
    weight[:100] = 0
    return ReferenceBank(tuple(entries), content, rng.normal(size=(300, WIDTH)), weight, np.zeros(300, bool),
                         np.zeros((0, WIDTH)), np.zeros((0, len(lengths)), bool), 0.01, "0" * 64)  # fmt: skip


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    made((12.0, 6.0, 0.5)).save_pretrained(tmp_path / "bank")
    return tmp_path / "bank"


def test_what_stands_out_and_what_does_not(bank: Path) -> None:
    found = run(str(bank))
    haze, noise, scratch = (found["degradations"][name] for name in NAMES)
    assert haze["probe_auc"] > 0.999 and haze["kind_accuracy"] > 0.95 and haze["filter_auc"] > 0.999
    assert noise["probe_accuracy"] > 0.95 and noise["found"] > 0.9 and noise["held_out"] == 60
    assert scratch["probe_auc"] < 0.75 and scratch["filter_auc"] < 0.8 and scratch["found"] < 0.3
    assert found["clean"]["held_out"] == 200 and 0 <= found["clean"]["false_positives"] < 0.05
    assert found["cosines"]["haze"] == {"haze": 1.0, "noise": 0.0, "scratch": 0.0}
    assert list(found["confusion"]) == [*NAMES, "(clean)"]
    assert found["confusion"]["noise"]["noise"] == round(noise["found"] * 60)
    assert sum(found["confusion"]["(clean)"].values()) == 300
    assert found["kind_accuracy"] == pytest.approx(
        np.mean([row["kind_accuracy"] for row in (haze, noise, scratch, found["clean"])]), abs=1e-3
    )
    shown = text(found)
    assert all(word in shown for word in (*NAMES, "probe AUC", "cosines", "decided as", "(clean)"))


def test_nothing_is_nearest_to_itself(tmp_path: Path) -> None:
    """All cosines of a direction with others may be negative."""
    whole = made((12.0, 6.0))
    entries = whole.entries[0], replace(whole.entries[1], mean_D=6 * np.eye(WIDTH)[1] - 3 * np.eye(WIDTH)[0])
    replace(whole, entries=entries).save_pretrained(tmp_path / "two")
    found = run(str(tmp_path / "two"))["degradations"]
    assert found["haze"]["nearest"] == "noise" and found["haze"]["nearest_cosine"] < 0
    made((12.0,)).save_pretrained(tmp_path / "one")
    alone = run(str(tmp_path / "one"))
    assert alone["degradations"]["haze"]["nearest"] is None and " - " in text(alone)


def test_severities_are_told_with_their_length_and_direction(tmp_path: Path) -> None:
    whole = made((12.0, 6.0))
    fdi = np.stack([3 * np.eye(WIDTH)[1], 20 * np.eye(WIDTH)[0]])
    entries = replace(whole.entries[0], severities=Severities(fdi, np.sign(fdi))), whole.entries[1]
    replace(whole, entries=entries).save_pretrained(tmp_path / "bank")
    found = run(str(tmp_path / "bank"))
    assert found["degradations"]["noise"]["severities"] == []
    assert found["degradations"]["haze"]["severities"] == [
        {"length": 3.0, "cosine": 0.0},
        {"length": 20.0, "cosine": 1.0},
    ]
    assert "severities of haze, mildest first, as length (cosine to the mean): 3.00 (0.00), 20.00 (1.00)" in text(found)


def test_too_few_references_say_nothing_rather_than_something(tmp_path: Path) -> None:
    made((12.0, 6.0), count=3).save_pretrained(tmp_path / "few")
    found = run(str(tmp_path / "few"), str(tmp_path / "few.png"))
    assert found["degradations"]["haze"]["probe_auc"] is None and found["kind_accuracy"] is None
    assert found["degradations"]["haze"]["filter_auc"] == 1
    assert text(found)


def test_the_command_prints_tables_or_json_and_draws(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plot = tmp_path / "plot.png"
    assert cli.main(["bank", "show", str(bank), "--plot", str(plot)]) == 0
    assert "filter AUC" in capsys.readouterr().out
    with Image.open(plot) as image:
        assert image.format == "PNG" and len(image.getcolors(2**20) or ()) > 4
    assert cli.main(["bank", "show", str(bank), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["plot"] is None and found["degradations"]["haze"]["probe_auc"] > 0.99


@pytest.mark.parametrize("plot", ["", "missing/plot.png"])
def test_a_plot_that_can_not_be_written_is_refused(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture, plot: str
) -> None:
    assert cli.main(["bank", "show", str(bank), f"--plot={tmp_path / plot}"]) == 2
    assert "--plot" in capsys.readouterr().err


def test_no_encoder_is_loaded(bank: Path) -> None:
    code = f"import sys\nfrom jobs.bank_show import run\nrun({str(bank)!r})\n"
    code += "print(sorted({'torch', 'ray', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_looked_for_in_whole_pictures_only_is_shown_so(tmp_path: Path) -> None:
    whole = np.arange(300) >= 260
    replace(made((12.0, 6.0, 8.0)), whole_N=whole, whole_only=frozenset({"scratch"})).save_pretrained(tmp_path)
    found = run(str(tmp_path))
    scratch, haze = (found["degradations"][name] for name in ("scratch", "haze"))
    assert scratch["limit"] is None and scratch["found"] is None and scratch["found_whole"] > 0.9
    assert haze["limit"] > 0 and haze["found"] > 0.9 and haze["limit_whole"] > 0
    assert list(found["confusion"]) == ["haze", "noise", "(clean)"] and found["whole_pictures"] == 40
    assert found["clean"]["held_out"] == 160 and 0 <= found["clean"]["false_positives_whole"] < 0.1
    assert "40 are held out" in text(found) and "as wholes" in text(found)


def test_references_in_grey_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = made((12.0, 6.0, 8.0))
    replace(whole, monochrome=made((12.0, 0.1, 8.0))).save_pretrained(tmp_path / "bank")
    whole.save_pretrained(tmp_path / "none")
    found, none = run(str(tmp_path / "bank")), run(str(tmp_path / "none"))
    noise = found["degradations"]["noise"]
    assert noise["found"] > 0.9 and noise["found_grey"] < 0.2 and found["degradations"]["haze"]["found_grey"] > 0.9
    assert found["clean"]["false_positives_monochrome"] is not None
    assert none["clean"]["false_positives_monochrome"] is None and none["degradations"]["noise"]["found_grey"] is None
    assert cli.main(["bank", "show", str(tmp_path / "bank")]) == 0
    assert "by references of their own" in capsys.readouterr().out
    assert cli.main(["bank", "show", str(tmp_path / "none")]) == 0
    assert "as those in colour" in capsys.readouterr().out
