"""The evaluation from a manifest to its files, with a restorer of three lines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import pyvips
from pydantic import ValidationError
from scipy.ndimage import uniform_filter

from fdi_lib.core.decision import Decision
from fdi_lib.core.monochrome import is_monochrome
from fdi_lib.core.niqe import niqe
from fdi_lib.core.order import in_order_of_damage
from fdi_lib.core.protocol import as_float
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import EvaluateManifest, load_manifest
from fdi_lib.models.pristine import load_pristine
from jobs.evaluate import evaluate, synthetic

REPOSITORY = Path(__file__).parents[2]
KEYS = {
    "n", "psnr_in", "psnr_out", "gain_db", "gain_db_classified", "gain_db_without_fidelity", "ssim_in", "ssim_out",
    "classical", "classical_gain_db", "found", "psnr_roundtrip", "gain_db_fidelity_only", "ms_ssim_in", "ms_ssim_out",
    "niqe_in", "niqe_out",
}  # fmt: skip


class FakeRestorer:
    """Smooths what is noisy, lightens what is dark."""

    adapter_hashes = {"noise": "0" * 64, "low_light": "1" * 64}  # noqa: RUF012

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        return [self._decide(image) for image in images]

    def classify_without(self, name: str, images: list[np.ndarray]) -> list[Decision]:
        return self.classify(images)

    def _decide(self, image: np.ndarray) -> Decision:
        if image.mean() < 60:
            return Decision("single", (("low_light", 1.0),))
        rough = np.abs(np.diff(image.astype(float), axis=0)).mean()
        return Decision("single", (("noise", 1.0),)) if rough > 10 else Decision("clean")

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        return [self._apply(i, [n for n, _ in d.adapters]) for i, d in zip(images, decisions, strict=True)]

    def _apply(self, image: np.ndarray, names: list[str]) -> np.ndarray:
        out = image.astype(float)
        for name in names:
            out = uniform_filter(out, (5, 5, 1)) if name == "noise" else out * 3
        return np.clip(out, 0, 255).astype(np.uint8)

    def round_trip(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return images

    def fidelity_only(self, images: list[np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        return images


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A picture list with two test photographs, smooth ramps of 512 px."""
    rows = ["picture\tgroup_id\tkind\tsource_repository\tlicence\tsha256\tsplit"]
    for i in range(2):
        ramp = np.linspace(70, 250, 512)[:, None, None] * np.ones((1, 512, 3)) * (1 - 0.1 * i)
        data = pyvips.Image.new_from_array(ramp.astype(np.uint8)).jpegsave_buffer(Q=98)
        (tmp_path / f"{i}.jpg").write_bytes(data)
        rows.append(f"{i}.jpg\tg{i}\tphoto\there\tCC0\t{hashlib.sha256(data).hexdigest()}\ttest")
    (tmp_path / "list.tsv").write_text("\n".join(rows))
    return tmp_path


def manifest(root: Path, output: Path, **data: object) -> EvaluateManifest:
    settings = {"uri": str(root), "pictures": str(root / "list.tsv"), "tile_px": 64, "tiles_per_degradation": 4}
    settings |= {"tiles_per_mixture": 2, "clean_tiles": 6, "degradations": ["noise", "low_light", "haze"], **data}
    return EvaluateManifest.model_validate({"kind": "evaluate", "data": settings, "output": str(output)})


def test_synthetic(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path_factory.mktemp("out")
    result = evaluate(manifest(pictures, output), lambda fidelity: FakeRestorer())
    stored = json.loads((output / "metrics.json").read_text())
    assert stored == result
    assert stored["split"] == "test"
    assert set(stored["degradations"]) == {"noise", "low_light"}
    for row in stored["degradations"].values():
        assert set(row) == KEYS
        assert row["n"] == 4
        assert row["gain_db"] > 3
    assert stored["degradations"]["noise"]["classical"] == "non-local means"
    assert stored["clean"]["n"] == 6
    assert stored["clean"]["untouched"] == 1
    assert stored["mixtures"]["n"] == 2
    assert set(stored["unknown"]["kinds"]) == {"haze", "noise", "low_light"}  # haze has no adapter
    assert stored["unknown"]["n"] == 12
    assert [row["psnr_roundtrip"] for row in stored["degradations"].values()] == [100, 100]
    assert all(row["gain_db_fidelity_only"] == 0 for row in stored["degradations"].values())
    # Tiles of 64 px are too small for NIQE: null in the file, a dash in the table.
    assert all(row["niqe_in"] is None and row["niqe_out"] is None for row in stored["degradations"].values())
    shown = capsys.readouterr().out
    assert shown.count("–") == 4
    assert "noise" in shown and shown.count("lossless") == 2
    assert pyvips.Image.new_from_file(str(output / "contact-sheet.png")).bands == 3


def test_synthetic_is_reproducible(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first, second = (
        evaluate(manifest(pictures, tmp_path_factory.mktemp("out")), lambda fidelity: FakeRestorer()) for _ in range(2)
    )
    assert first["degradations"] == second["degradations"]


def test_another_split_is_of_other_pictures(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    table, output = pictures / "list.tsv", tmp_path_factory.mktemp("out")
    table.write_text(table.read_text().removesuffix("test") + "reserve")
    taken = {}
    for split in ("test", "reserve", "unseen"):
        made = synthetic(manifest(pictures, output, split=split, degradations=["noise"]), {"noise"})
        taken[split] = {tile.picture for tile in made.clean} | {s.tile.picture for s in made.singles["noise"]}
    assert taken == {"test": {"g0"}, "reserve": {"g1"}, "unseen": {"g0", "g1"}}


def test_black_and_white_prints_are_measured_instead(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    output = tmp_path_factory.mktemp("out")
    for row in (table := pictures / "list.tsv").read_text().splitlines()[1:]:  # the fixture's pictures are grey
        name, *_, sha256, _ = row.split("\t")
        image = pyvips.Image.new_from_file(str(pictures / name)).numpy().copy()
        image[:, np.arange(512) // 16 % 2 == 1] = image[:, :1] * [0.8, 1, 1.2]
        data = pyvips.Image.new_from_array(image).jpegsave_buffer(Q=98)
        (pictures / name).write_bytes(data)
        table.write_text(table.read_text().replace(sha256, hashlib.sha256(data).hexdigest()))
    made = {
        colour: synthetic(manifest(pictures, output, colour=colour, degradations=["noise", "haze"]), {"noise"})
        for colour in ("as_is", "grey", "toned")
    }
    for kind, found in made.items():
        tiles = [tile.pixels for tile in found.clean] + [sample.tile.pixels for sample in found.singles["noise"]]
        assert [is_monochrome(tile) for tile in tiles] == [kind != "as_is"] * len(tiles)
        assert (np.ptp(tiles[0], axis=2).max() > 0) == (kind != "grey")
    damaged = {kind: found.singles["noise"][0].pixels for kind, found in made.items()}
    assert np.ptp(damaged["grey"], axis=2).max() == 0 and np.ptp(damaged["toned"], axis=2).max() > 0
    assert np.ptp(made["grey"].unknown["haze"][0].pixels, axis=2).max() == 0


def test_restorer_without_fidelity_is_asked_for(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    asked: list[bool] = []

    def load(fidelity: bool) -> FakeRestorer:
        asked.append(fidelity)
        return FakeRestorer()

    evaluate(manifest(pictures, tmp_path_factory.mktemp("out"), degradations=["noise"], clean_tiles=0), load)
    assert asked == [True, False]


def test_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    scores = []
    for side, sigma in (("clean", 0), ("degraded", 40)):
        folder = tmp_path / "data" / "noise" / side
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            pixels = np.clip(128 + rng.normal(0, sigma, (128, 160, 3)), 0, 255).astype(np.uint8)
            pyvips.Image.new_from_array(pixels).pngsave(str(folder / f"{name}.png"))
            scores.append(niqe(as_float(pixels), load_pristine()))
    settings = manifest(tmp_path / "data", tmp_path / "out", kind="folders", degradations=["noise"])
    result = evaluate(settings, lambda fidelity: FakeRestorer())
    assert result["degradations"]["noise"]["n"] == 2
    assert result["degradations"]["noise"]["gain_db"] > 8
    assert scores[:2] == [None, None]  # a flat reference has none, and needs none
    assert result["degradations"]["noise"]["niqe_in"] == pytest.approx(np.mean(np.array(scores[2:], float)), abs=1e-4)
    shown = capsys.readouterr().out
    assert all(f"{result['degradations']['noise'][column]:.2f}" in shown for column in ("niqe_in", "niqe_out"))

    (tmp_path / "data" / "noise" / "clean" / "b.png").unlink()
    with pytest.raises(ManifestError, match="not pairs: b"):
        evaluate(settings, lambda fidelity: FakeRestorer())


def test_no_adapter_for_anything(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ManifestError, match=r"data\.degradations"):
        evaluate(
            manifest(pictures, tmp_path_factory.mktemp("o"), degradations=["haze"]), lambda fidelity: FakeRestorer()
        )


@pytest.mark.parametrize("name", ["compact", "folders", "whole"])
def test_shipped_manifest_parses(name: str, tmp_path: Path) -> None:
    loaded = load_manifest(str(REPOSITORY / f"manifests/evaluate/{name}.yaml"), [f"data.uri={tmp_path}"])
    assert isinstance(loaded, EvaluateManifest)
    if name == "compact":
        assert loaded.data.tiles_per_degradation >= 60
        assert loaded.data.clean_tiles >= 400


class Both(FakeRestorer):
    adapter_hashes = {name: "0" * 64 for name in ("noise", "low_light", "haze")}  # noqa: RUF012


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ({}, 3),
        ({"max_mixtures": 2}, 2),
        ({"max_mixtures": 99}, 3),
        ({"mixtures": [["noise", "low_light"]]}, 1),
        ({"mixtures": [["noise", "low_light"], ["noise", "haze"]], "max_mixtures": 1}, 1),
        ({"mixtures": [["noise", "low_light"], ["low_light", "noise"], ["noise", "haze"]]}, 2),
    ],
)
def test_mixtures_are_bounded(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, settings: dict[str, object], pairs: int
) -> None:
    wanted = manifest(pictures, tmp_path_factory.mktemp("out"), clean_tiles=0, **settings)
    found = [sample.applied for sample in synthetic(wanted, set(Both.adapter_hashes)).mixtures]
    assert len(found) == 2 * pairs and len(set(found)) == pairs
    assert all(pair == tuple(in_order_of_damage(pair)) for pair in found)


def test_mixtures_that_cannot_be_are_refused(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    output = tmp_path_factory.mktemp("out")
    for settings, message in (
        ({"mixtures": [["noise", "noise"]]}, "no mixture"),
        ({"mixtures": [["noise", "mould"]]}, "mould is not among data.degradations"),
        ({"mixtures": []}, "at least 1 item"),
        ({"max_mixtures": 0}, "greater than or equal to 1"),
    ):
        with pytest.raises(ValidationError, match=message):
            manifest(pictures, output, **settings)
    with pytest.raises(ManifestError, match=r"data\.mixtures = 'haze': no adapter"):
        synthetic(manifest(pictures, output, mixtures=[["noise", "haze"]]), {"noise"})


def test_whole_pictures_are_measured_once_each(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ramp = np.repeat(np.linspace(70, 250, 2000).astype(np.uint8)[:, None, None], 900, 1).repeat(3, 2)
    data = pyvips.Image.new_from_array(ramp).jpegsave_buffer(Q=98)
    (pictures / "large.jpg").write_bytes(data)
    with (pictures / "list.tsv").open("a") as rows:
        rows.write(f"\nlarge.jpg\tlarge\tphoto\there\tCC0\t{hashlib.sha256(data).hexdigest()}\ttest\n")
    output = tmp_path_factory.mktemp("out")
    found = synthetic(manifest(pictures, output, cut="whole", tile_px=256, clean_tiles=9), {"noise"})
    # The large one is taken at a third, where its shorter side is 300 px; its other sizes are clean only.
    assert sorted(s.pixels.shape for s in found.singles["noise"]) == [(256, 256, 3)] * 2 + [(667, 300, 3)]
    assert sorted(tile.pixels.shape[0] for tile in found.clean) == [256, 256, 500, 667, 1000]
    with pytest.raises(ManifestError, match=r"data\.tile_px = '512': no whole picture is large enough"):
        synthetic(manifest(pictures, output, cut="whole", tile_px=512), {"noise"})
