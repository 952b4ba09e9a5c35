"""Moments from Ray Data equal those of one process; bad pairs are reported and not counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from fdi_lib.core.views import ViewSpec, make_views
from fdi_lib.errors import StorageRefusedError
from fdi_lib.manifest import Pools, StorageSettings
from fdi_lib.manifest.settings import ClassifyPool
from fdi_lib.storage.pack import tar_bytes
from fdi_lib.training.pair_checks import PairReport
from fdi_lib.training.pairs import place_of
from jobs.training.pair_stream import PairStream, pair_moments, pair_reports
from tests.storage.pictures import bare

SPEC = ViewSpec(32, 1)
POOLS = Pools(classify=ClassifyPool(max=1, batch=6))


class Statistics:
    """Tokens from plain statistics of the views, two a view."""

    def tokens(self, views_BVHWC: np.ndarray) -> torch.Tensor:
        x = views_BVHWC.astype(np.float32) / 255
        numbers = np.stack([x.mean((2, 3)), x.std((2, 3))], axis=2)  # B, V, 2, 3
        return torch.from_numpy(numbers.reshape(len(x), 4, 3))

    def features(self, views_BVHWC: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.tokens(views_BVHWC)
        return tokens, self.pooled(tokens)

    def pooled(self, tokens_BTD: torch.Tensor) -> torch.Tensor:
        return tokens_BTD.unflatten(1, (2, 2)).mean(2).flatten(1)


def pixels_of(number: int) -> tuple[np.ndarray, np.ndarray]:
    clean = skimage.data.astronaut()[20 * number : 20 * number + 96, 40 : 40 + 96]
    noise = np.random.default_rng(number).normal(0, 25, clean.shape)
    return np.clip(clean * 0.8 + 20 + noise, 0, 255).astype(np.uint8), np.ascontiguousarray(clean)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Twelve pairs in three tars; one more without damage, one broken, one without a clean side."""
    for shard in range(3):
        members = []
        for i in range(shard * 4, shard * 4 + 4):
            for side, pixels in zip(("degraded", "clean"), pixels_of(i), strict=True):
                members.append((f"{i}.{side}.png", bare("png", pixels)))
        if shard == 1:
            same = bare("png", pixels_of(0)[1])
            members += [("same.clean.png", same), ("same.degraded.png", same), ("alone.degraded.png", same)]
            members += [("bad.clean.png", same), ("bad.degraded.png", same[:500])]
        (tmp_path / f"{shard}.tar").write_bytes(tar_bytes(members))
    return tmp_path


def test_moments_are_those_of_one_process(shards, ray_local):
    reports: list[PairReport] = []
    settings = PairStream(str(shards), "shards", StorageSettings(), SPEC, sample=5, unit_pairs=5, part_units=2)
    split = pair_moments(settings, Statistics, POOLS, reports.extend)
    found = split.learnt
    assert found is not None and found.count == 12 and split.held_out is None

    assert len(reports) == 15
    left_out = {report.name: report.reasons[0].split(":")[0] for report in reports if not report.ok}
    assert left_out == {
        "1.tar/same": "identical",
        "1.tar/bad": "degraded",
        "1.tar/alone": "the clean picture is missing",
    }

    sides = [[make_views(pair[side], SPEC) for pair in map(pixels_of, range(12))] for side in (0, 1)]
    degraded, clean = (Statistics().tokens(np.stack(views)) for views in sides)
    np.testing.assert_allclose(found.fdi_tokens_TD, (degraded - clean).mean(0).numpy(), rtol=1e-5)
    pooled = Statistics().pooled
    difference = (pooled(degraded) - pooled(clean)).double().numpy()
    np.testing.assert_allclose(found.difference.mean_D, difference.mean(0), rtol=1e-5)
    expected = np.cov(difference, rowvar=False, bias=True)
    np.testing.assert_allclose(found.difference.covariance_DD, expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.clean.mean_D, pooled(clean).mean(0).numpy(), rtol=1e-5)
    assert found.sample.row_ND.shape == (5, 12)
    assert {tuple(row[:6]) for row in found.sample.row_ND} <= {tuple(row) for row in pooled(clean).numpy()}


def test_reports_alone_are_compared_in_the_order_of_their_names(shards, ray_local):
    (shards / "3.tar").write_bytes((shards / "0.tar").read_bytes())
    reports = pair_reports(PairStream(str(shards), "shards", StorageSettings(), None, unit_pairs=3), POOLS)
    assert [report.name for report in reports] == sorted(report.name for report in reports)
    assert [r.reasons for r in reports if r.name == "3.tar/0"] == [("duplicate of 0.tar/0",)]
    assert sum(report.ok for report in reports) == 12


def test_a_place_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    settings = PairStream(str(tmp_path / "no"), "shards", StorageSettings(), SPEC)
    with pytest.raises(StorageRefusedError):
        pair_moments(settings, Statistics, POOLS, lambda reports: None)


def test_one_stream_parts_the_pairs_as_a_split_does(shards, ray_local):
    settings = PairStream(str(shards), "shards", StorageSettings(), SPEC, sample=99, unit_pairs=5, part_units=3)
    reports: list[PairReport] = []
    found = pair_moments(replace(settings, held_out=0.4), Statistics, POOLS, reports.extend)
    assert sorted(report.name for report in reports) == sorted({report.name for report in reports})  # each pair once
    assert len(reports) == 15

    place = {report.name: place_of(report.clean_hash, settings.seed) for report in reports if report.ok}
    for side, mine in (
        (found.held_out, [name for name, at in place.items() if at < 0.4]),
        (found.learnt, [name for name, at in place.items() if at >= 0.4]),
    ):
        assert side is not None and side.count == len(mine) == len(side.sample.row_ND) > 0
        pairs = [pixels_of(int(name.split("/")[1])) for name in mine]
        degraded, clean = (
            Statistics().tokens(np.stack([make_views(pair[i], SPEC) for pair in pairs])).double() for i in (0, 1)
        )
        q_degraded, q_clean = (Statistics().pooled(tokens).numpy() for tokens in (degraded, clean))
        np.testing.assert_allclose(side.fdi_tokens_TD, (degraded - clean).mean(0).numpy(), rtol=1e-5, atol=1e-7)
        for moments, rows in (
            (side.clean, q_clean),
            (side.degraded, q_degraded),
            (side.difference, q_degraded - q_clean),
        ):
            np.testing.assert_allclose(moments.mean_D, rows.mean(0), rtol=1e-5, atol=1e-7)
            expected = np.cov(rows, rowvar=False, bias=True)
            np.testing.assert_allclose(moments.covariance_DD, expected, rtol=1e-4, atol=1e-8)
