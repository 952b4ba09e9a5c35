"""The evaluation protocol is fixed by its seed and spreads over pictures."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from fdi_lib.core.protocol import Tile, as_float, degrade_tile, even_choice, key_seed, mixtures, quantise, spread


def tiles(**counts: int) -> list[Tile]:
    return [
        Tile(p, i, np.full((64, 64, 3), 40 * i + 20, np.uint8)) for p, count in counts.items() for i in range(count)
    ]


def test_spread_takes_pictures_in_turn() -> None:
    chosen = spread(tiles(a=5, b=2, c=5), 8, seed=0)
    assert Counter(t.picture for t in chosen) == {"a": 3, "b": 2, "c": 3}
    assert len({(t.picture, t.number) for t in chosen}) == 8


def test_spread_does_not_depend_on_the_order_given() -> None:
    forward, backward = tiles(a=5, b=5), tiles(a=5, b=5)[::-1]
    assert [(t.picture, t.number) for t in spread(forward, 4, 3)] == [
        (t.picture, t.number) for t in spread(backward, 4, 3)
    ]


def test_spread_differs_by_seed() -> None:
    choices = {tuple(t.number for t in spread(tiles(a=5), 2, seed)) for seed in range(8)}
    assert len(choices) > 1


def test_spread_gives_all_when_there_are_fewer() -> None:
    assert len(spread(tiles(a=2, b=1), 10, seed=0)) == 3


def test_degrade_tile_is_keyed_by_degradation_picture_tile_and_seed() -> None:
    one, other = tiles(a=1, b=1)
    first = degrade_tile(["noise"], one, 0)
    assert np.array_equal(first.pixels, degrade_tile(["noise"], one, 0).pixels)
    assert not np.array_equal(first.pixels, degrade_tile(["noise"], other, 0).pixels)
    assert not np.array_equal(first.pixels, degrade_tile(["noise"], one, 1).pixels)
    assert first.pixels.dtype == np.uint8
    assert first.applied == ("noise",)


def test_mixtures_come_in_the_order_of_damage() -> None:
    assert mixtures(["jpeg", "noise", "haze"]) == [("haze", "noise"), ("haze", "jpeg"), ("noise", "jpeg")]


def test_quantise_rounds_half_to_even_and_clips() -> None:
    assert quantise(np.array([-1, 0.5 / 255, 1.5 / 255, 2.0])).tolist() == [0, 0, 2, 255]
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantise(as_float(every)), every)


def test_key_seed_is_stable() -> None:
    assert key_seed(0, "noise", "a", 1) == key_seed(0, "noise", "a", 1) != key_seed(0, "noise", "a", 2)
    assert 0 <= key_seed("x") < 2**63


def test_unknown_degradation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown degradation"):
        degrade_tile(["nothing like it"], tiles(a=1)[0], 0)


def test_even_choice_lets_every_name_take_part_alike() -> None:
    names = [f"d{i:02d}" for i in range(15)]
    pairs = list(combinations(names, 2))
    for count in (8, 15, 30, 44):
        chosen = even_choice(pairs, count, 0)
        uses = Counter(name for pair in chosen for name in pair)
        assert len(chosen) == len(set(chosen)) == count and chosen == sorted(chosen)
        assert max(uses.values()) - min(uses[name] for name in names) <= (0 if count == 15 else 2)
        assert all(uses[name] for name in names)


def test_even_choice_is_fixed_by_its_seed_and_gives_all_when_there_are_fewer() -> None:
    pairs = list(combinations("abcdef", 2))
    assert even_choice(pairs, 5, 1) == even_choice(pairs[::-1], 5, 1)[::-1]
    assert len({tuple(even_choice(pairs, 5, seed)) for seed in range(6)}) > 1
    assert even_choice(pairs, 99, 0) == pairs
