"""The network that names what images have learns from images with one and with two degradations."""

from collections import Counter

import numpy as np

from fdi_lib.training.namer import damage_to_name, train_namer

NAMES = ("haze", "noise", "jpeg", "fade")


def test_it_learns_on_every_two_alike_and_on_as_many_alone() -> None:
    content = [np.full((8, 8, 3), i, np.uint8) for i in range(5)]
    damages = damage_to_name(NAMES, {"haze", "noise", "jpeg"}, content, 8, 0)
    count = Counter(damage.names for damage in damages)
    assert {names: n for names, n in count.items() if len(names) == 2} == {
        ("haze", "noise"): 8, ("haze", "jpeg"): 8, ("noise", "jpeg"): 8}  # fmt: skip
    assert all(count[(name,)] == 6 for name in NAMES)
    assert len({damage.seed for damage in damages}) == len(damages) == 48
    assert len({damage.image[0, 0, 0] for damage in damages if damage.names == ("haze", "noise")}) > 1
    assert damage_to_name(NAMES, {"haze"}, content, 8, 0) == damage_to_name(NAMES, NAMES, content, 0, 0) == []


def test_it_names_what_lies_in_no_sum() -> None:
    rng = np.random.default_rng(0)
    present_NK = rng.random((4000, 3)) < 0.5
    a, b = present_NK[:, 0], present_NK[:, 1]
    # With the second one there, the first shows on another axis, and not where it is alone.
    mean_ND = np.stack([4.0 * (a & ~b), 4.0 * b, 4.0 * (a & b)], axis=1)
    known_K = np.array([True, True, False])
    r_ND = mean_ND + rng.normal(size=mean_ND.shape)
    namer = train_namer(r_ND[:3000], present_NK[:3000], known_K, 0)
    odds_NK = namer.log_odds(r_ND[3000:])
    right = (odds_NK[:, :2] > 0) == present_NK[3000:, :2]
    assert right.mean() > 0.95
    assert np.isneginf(odds_NK[:, 2]).all()
    again = train_namer(r_ND[:3000], present_NK[:3000], known_K, 0)
    np.testing.assert_array_equal(odds_NK, again.log_odds(r_ND[3000:]))
