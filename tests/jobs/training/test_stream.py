"""A worker's stream is the samples of its steps, in order, from any step on."""

from __future__ import annotations

import numpy as np
import pytest

from fdi_lib.manifest.training import TrainWorker
from fdi_lib.training.pairs import SyntheticPairs
from fdi_lib.training.samples import Samples, Shard
from jobs.training import stream
from jobs.training.stream import SharedPairs, batches


@pytest.mark.usefixtures("ray_local")
def test_the_stream_is_the_samples_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_ROWS_A_BLOCK", 7)  # several blocks,
    monkeypatch.setattr(stream, "_BLOCKS_A_STREAM", 3)  # and several streams
    tiles = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3)).astype(np.uint8)
    samples = Samples(SharedPairs(SyntheticPairs(tiles, "noise")), 32, 0, (12, 2), 300)
    shard = Shard(1, 2, 5)  # two of five samples
    found = list(batches(samples, shard, 4, 16, TrainWorker(data_tasks=2)))
    assert len(found) == 12
    for step, rows in enumerate(found, start=4):
        for name, expected in samples.rows(shard.indices(step)).items():
            np.testing.assert_array_equal(rows[name], expected)


def test_shards_share_every_step_out() -> None:
    for world in (1, 2, 3, 5):
        shards = [Shard(rank, world, 5) for rank in range(world)]
        assert sorted(i for s in shards for i in s.indices(3)) == list(range(15, 20))
        assert [len(s.indices(3)) for s in shards] == [len(s) for s in shards]
