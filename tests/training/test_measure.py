"""Figures of a restorer whose gains are known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from fdi_lib.core.decision import Decision
from fdi_lib.core.niqe import niqe
from fdi_lib.core.protocol import Sample, Tile, as_float, quantise
from fdi_lib.errors import WeightsError
from fdi_lib.models.pristine import load_pristine
from fdi_lib.training.measure import EvaluationSet, measure


class FakeRestorer:
    """Knows two adapters: ``darker`` halves, ``brighter`` adds 40. Decides by the value of the first pixel."""

    adapter_hashes = {"brighter": "b" * 64, "darker": "d" * 64}  # noqa: RUF012

    def __init__(self, decisions: dict[int, Decision]) -> None:
        self.decisions = decisions
        self.routes: list[set[str]] = []
        self.trips = 0

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        return [self.decisions[int(image[0, 0, 0])] for image in images]

    def classify_without(self, name: str, images: list[np.ndarray]) -> list[Decision]:
        def seen(decision: Decision) -> Decision:
            return Decision("unknown", residual=0.8) if name in dict(decision.adapters) else decision

        return [seen(decision) for decision in self.classify(images)]

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        assert noise_keys is not None and len(noise_keys) == len(images) == len(decisions)
        self.routes.append({d.route for d in decisions})
        results = []
        for image, decision in zip(images, decisions, strict=True):
            out = image.astype(np.int64)
            for name, _ in decision.adapters:
                out = out // 2 if name == "darker" else out + 40
            results.append(out.astype(np.uint8))
        return results

    def round_trip(self, images: list[np.ndarray]) -> list[np.ndarray]:
        self.trips += len(images)
        return [image - 2 for image in images]

    def fidelity_only(self, images: list[np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        assert names == ("brighter",)
        return [image + 4 for image in images]


def sample(clean: int, degraded: int, *applied: str) -> Sample:
    shape = (16, 16, 3)
    return Sample(
        applied, Tile(f"p{clean}", 0, np.full(shape, clean, np.uint8)), np.full(shape, degraded, np.uint8), degraded
    )


BRIGHTER = Decision("single", (("brighter", 1.0),), residual=0.1)
CLEAN = Decision("clean")
UNKNOWN = Decision("unknown", residual=0.9)


def test_single_degradation() -> None:
    samples = [sample(100, 59, "brighter"), sample(101, 62, "brighter")]
    restorer = FakeRestorer({59: BRIGHTER, 62: CLEAN})
    bare = FakeRestorer({})
    result, pictures = measure(EvaluationSet({"brighter": samples}), restorer, bare, "progressive", 0)
    row = result["degradations"]["brighter"]
    # Errors of 41 and 39 levels become 1 each; the second image is not found, and so not restored.
    before = 20 * np.log10([255 / 41, 255 / 39])
    assert row["n"] == 2
    assert row["psnr_in"] == pytest.approx(before.mean(), abs=1e-3)
    assert row["psnr_out"] == pytest.approx(20 * np.log10(255), abs=1e-3)
    assert row["gain_db"] == pytest.approx(row["psnr_out"] - row["psnr_in"], abs=1e-3)
    assert row["gain_db_classified"] == pytest.approx((20 * np.log10(255) - before[0]) / 2, abs=1e-3)
    assert row["gain_db_without_fidelity"] == pytest.approx(row["gain_db"])
    fidelity = 20 * np.log10([255 / 37, 255 / 35])
    assert row["gain_db_fidelity_only"] == pytest.approx((fidelity - before).mean(), abs=1e-3)
    assert row["psnr_roundtrip"] == pytest.approx(20 * np.log10(255 / 2), abs=1e-3)
    assert row["found"] == 0.5
    assert row["classical"] == "do nothing" and row["classical_gain_db"] == 0
    assert 0 < row["ssim_in"] < row["ssim_out"] <= 1
    # A tile of 16 px has room for one scale only, and that is SSIM.
    assert row["ms_ssim_in"] == pytest.approx(row["ssim_in"], abs=1e-3)
    assert row["niqe_in"] is row["niqe_out"] is None  # nor for four patches of NIQE's
    assert [int(p[0, 0, 0]) for p in pictures["brighter"]] == [59, 99, 59, 100]
    assert result["clean"] == {"n": 0, "untouched": None, "interval": None, "altered": None}
    assert result["mixtures"]["n"] == result["unknown"]["n"] == 0


class Undoing(FakeRestorer):
    """Returns what it is told to for each image."""

    def __init__(self, undone: dict[bytes, np.ndarray]) -> None:
        super().__init__({})
        self.undone = undone

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        return [CLEAN for _ in images]

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        return [self.undone[image.tobytes()] for image in images]


def test_niqe_is_the_mean_over_tiles_that_have_one_before_and_after() -> None:
    rng = np.random.default_rng(0)
    cat, coffee = skimage.data.chelsea()[:128, :192], skimage.data.coffee()[100:228, 100:292]
    blank = np.full_like(cat, 255)
    clean = [cat, coffee, cat]
    degraded = [quantise(as_float(pixels) + rng.normal(0, 0.1, pixels.shape).clip(0, 1)) for pixels in clean]
    restored = [cat, coffee, blank]  # of the last nothing is left to score
    samples = [Sample(("brighter",), Tile(str(i), 0, clean[i]), degraded[i], i) for i in range(3)]
    restorer = Undoing({degraded[i].tobytes(): restored[i] for i in range(3)})
    row = measure(EvaluationSet({"brighter": samples}), restorer, restorer, "progressive", 0)[0]["degradations"][
        "brighter"
    ]
    before, after = (
        np.mean([niqe(as_float(pixels), load_pristine()) for pixels in side[:2]])  # type: ignore[arg-type]
        for side in (degraded, restored)
    )
    assert (row["niqe_in"], row["niqe_out"]) == (pytest.approx(before, abs=1e-4), pytest.approx(after, abs=1e-4))
    assert row["niqe_out"] < row["niqe_in"] - 3


def test_a_missing_model_of_clean_photographs_is_said_before_anything_is_restored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fdi_lib.training.measure.load_pristine", lambda: load_pristine(tmp_path))
    restorer = FakeRestorer({59: BRIGHTER})
    with pytest.raises(WeightsError, match=r"niqe\.safetensors: not found"):
        measure(EvaluationSet({"brighter": [sample(100, 59, "brighter")]}), restorer, restorer, "progressive", 0)
    assert not restorer.routes


def test_a_tile_that_degradations_share_makes_one_round_trip() -> None:
    restorer = FakeRestorer({59: BRIGHTER})
    restorer.fidelity_only = lambda images, names: images  # type: ignore[method-assign]
    data = EvaluationSet({n: [sample(100, 59, n), sample(101, 59, n)] for n in ("brighter", "darker")})
    result, _ = measure(data, restorer, restorer, "progressive", 0)
    assert restorer.trips == 2
    assert len({row["psnr_roundtrip"] for row in result["degradations"].values()}) == 1


def test_clean_and_unknown() -> None:
    shape = (16, 16, 3)
    clean = [Tile(f"p{i}", 0, np.full(shape, i, np.uint8)) for i in (1, 2, 3, 4, 5)]
    data = EvaluationSet({"brighter": [sample(100, 60, "brighter")]}, clean=clean)
    data.unknown = {"rain": [sample(100, 7, "rain"), sample(100, 8, "rain")]}
    restorer = FakeRestorer({60: BRIGHTER, 1: CLEAN, 2: CLEAN, 3: CLEAN, 4: BRIGHTER, 5: UNKNOWN, 7: UNKNOWN, 8: CLEAN})
    result, _ = measure(data, restorer, restorer, "progressive", 0)
    assert result["clean"]["n"] == 5
    assert result["clean"]["untouched"] == 0.6
    assert result["clean"]["altered"] == 0.2  # what is unknown waits for a person, and stays as it is
    low, high = result["clean"]["interval"]
    assert 0 <= low < 0.6 < high <= 1
    rain = {"n": 2, "auroc": 0.5, "found": 0.5}
    assert result["unknown"] == rain | {"kinds": {"rain": rain}}


def test_what_has_an_adapter_is_unknown_to_a_bank_without_it() -> None:
    darker = Decision("single", (("darker", 1.0),), residual=0.2)
    restorer = FakeRestorer({59: BRIGHTER, 61: CLEAN, 90: darker})
    restorer.fidelity_only = lambda images, names: images  # type: ignore[method-assign]
    singles = {"brighter": [sample(100, 59, "brighter"), sample(100, 61, "brighter")]}
    data = EvaluationSet(singles | {"darker": [sample(100, 90, "darker")]})
    unknown = measure(data, restorer, restorer, "progressive", 0)[0]["unknown"]
    assert unknown["kinds"]["darker"] == {"n": 1, "auroc": 1.0, "found": 1.0}
    assert unknown["kinds"]["brighter"] == {"n": 2, "auroc": 0.5, "found": 0.5}
    assert (unknown["n"], unknown["auroc"], unknown["found"]) == (3, 0.75, 0.75)


def test_mixture_is_compared_with_the_better_single_of_each_tile() -> None:
    # 200 halved is 100, less 40 is 60: undone by +40, and nothing undoes the other half of the way.
    mixed = sample(50, 60, "brighter", "darker")
    both = Decision("mixture", (("darker", 1.0), ("brighter", 1.0)))
    data = EvaluationSet({"brighter": [sample(100, 61, "brighter")]}, mixtures=[mixed])
    restorer = FakeRestorer({61: BRIGHTER, 60: both})
    result, _ = measure(data, restorer, restorer, "progressive", 0)
    # brighter alone: 100 (error 50), darker alone: 30 (20), brighter and darker in order of repair: 50 or 70.
    best_single = 20 * np.log10(255 / 20)
    figures = result["mixtures"]
    assert figures["n"] == 1 and figures["f1"] == 1
    assert figures["gain_over_best_single_db_classified"] == pytest.approx(
        20 * np.log10(255 / 20) - best_single, abs=1e-3
    )
    assert all(len(routes) == 1 for routes in restorer.routes)


def test_what_nobody_looks_for_counts_as_unknown() -> None:
    scores = {"brighter": 0.5}
    seen = {59: replace(BRIGHTER, scores=scores), 62: replace(BRIGHTER, scores=scores),
            70: replace(UNKNOWN, scores=scores), 71: replace(CLEAN, residual=0.8, scores=scores)}  # fmt: skip
    data = EvaluationSet({
        "brighter": [sample(100, 59, "brighter"), sample(101, 62, "brighter")],
        "faded": [sample(102, 70, "faded"), sample(103, 71, "faded")],
    })  # fmt: skip
    restorer = FakeRestorer(seen)
    restorer.fidelity_only = lambda images, names: images  # type: ignore[method-assign]
    result, _ = measure(data, restorer, restorer, "progressive", 0)
    assert result["degradations"]["faded"]["found"] == 0
    assert result["unknown"]["kinds"] == {"faded": {"n": 2, "auroc": 1.0, "found": 0.5}}
