"""What a step sees depends on its number alone, however often a batch is used and wherever a training begins."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fdi_lib.training.pairs import SyntheticPairs
from fdi_lib.training.samples import Batch, Samples, echoed


def numbered(asked: list[tuple[int, int]] | None = None):
    """Gives batches that say their number: an image with an order of rows and columns, and a label."""

    def fresh(first: int, end: int) -> Iterator[Batch]:
        if asked is not None:
            asked.append((first, end))
        for number in range(first, end):
            yield {"degraded": 100.0 * number + torch.arange(4.0).view(1, 1, 2, 2), "t": torch.tensor([number])}

    return fresh


def test_one_step_a_batch_sees_it_as_it_is() -> None:
    asked: list[tuple[int, int]] = []
    seen = list(echoed(numbered(asked), 2, 5, 1))
    assert asked == [(2, 5)]
    for batch, plain in zip(seen, numbered()(2, 5), strict=True):
        assert all(torch.equal(batch[name], plain[name]) for name in plain)


def test_a_batch_is_used_again_mirrored_and_its_labels_stay() -> None:
    asked: list[tuple[int, int]] = []
    seen = list(echoed(numbered(asked), 0, 9, 4))
    assert asked == [(0, 3)]
    assert [int(batch["t"]) for batch in seen] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    orders = [(batch["degraded"] - 100 * batch["t"]).flatten().tolist() for batch in seen[4:8]]
    assert orders == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]


@pytest.mark.parametrize("echo", [2, 3])
def test_a_training_that_goes_on_sees_what_it_would_have_seen(echo: int) -> None:
    whole = list(echoed(numbered(), 0, 8, echo))
    for start in range(8):
        rest = list(echoed(numbered(), start, 8, echo))
        assert len(rest) == 8 - start
        assert all(torch.equal(a["degraded"], b["degraded"]) for a, b in zip(rest, whole[start:], strict=True))


def test_crops_return_with_noise_of_their_own() -> None:
    tiles = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3)).astype(np.uint8)
    rows = Samples(SyntheticPairs(tiles, "noise"), 32, 0, (12, 2), 300, crops=4).rows(range(2, 12))
    assert rows["crop"].tolist() == [2, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    for name in ("degraded", "clean"):
        np.testing.assert_array_equal(rows[name][:4], rows[name][4:8])
        assert len(np.unique(rows[name], axis=0)) == 4
    assert len(np.unique(rows["noise"], axis=0)) == 10
