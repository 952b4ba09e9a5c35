"""Levels that the literature quotes: what they are, and that the table is of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from rich.console import Console

from fdi_lib.core.decision import Decision
from fdi_lib.core.protocol import Tile, as_float
from jobs.benches.levels import LEVELS, _damaged, levels, main, table


class Told:
    """Has the truth for whatever is noisy, nothing for the rest, and finds noise in everything."""

    adapter_hashes = {"noise": "n" * 64, "jpeg": "j" * 64}  # noqa: RUF012

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = truth

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        return [Decision("single", (("noise", 1.0),))] * len(images)

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        return [
            self.truth if decision.route == "noise" else image
            for image, decision in zip(images, decisions, strict=True)
        ]

    def fidelity_only(self, images: list[np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        return images


def test_levels_are_what_they_are_called() -> None:
    grey = Tile("p", 0, np.full((128, 128, 3), 128, np.uint8))
    for sigma in (25, 50):
        name, damage = LEVELS[f"sigma {sigma}"]
        made = _damaged(f"sigma {sigma}", name, damage, grey, 0)
        assert name == "noise" and made.pixels.astype(float).std() == pytest.approx(sigma, rel=0.03)
    name, damage = LEVELS["quality 10"]
    made = _damaged("quality 10", name, damage, Tile("p", 0, skimage.data.astronaut()[:128, :128]), 0)
    step = np.abs(np.diff(as_float(made.pixels), axis=0)).mean((1, 2))
    assert name == "jpeg" and step[7::8].mean() > 1.5 * step[3::8].mean()  # blocks of eight rows


def test_the_table_is_of_all_levels() -> None:
    truth = skimage.data.astronaut()[:96, :96]
    found = levels([Tile("p", 0, truth)], Told(truth), Told(truth), 0)
    assert list(found) == list(LEVELS)
    assert found["sigma 25"]["found"] == 1.0 and found["quality 10"]["found"] == 0.0
    assert found["sigma 50"]["psnr_in"] < found["sigma 25"]["psnr_in"] - 4
    assert found["quality 10"]["gain_db"] == 0.0 and found["quality 10"]["gain_db_classified"] > 50
    printed = io.StringIO()
    Console(width=200, file=printed).print(table(found))
    assert all(level in printed.getvalue() for level in LEVELS)


def test_missing_pictures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), f"data.uri={tmp_path}", f"data.pictures={tmp_path}/none.tsv"]) == 2
    assert "none.tsv" in capsys.readouterr().err and not (tmp_path / "out").exists()
