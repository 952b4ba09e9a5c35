"""A scatter plot shows each group's points in its colour."""

import numpy as np

from fdi_lib.core.scatter import scatter


def test_every_group_is_drawn_in_a_colour_of_its_own():
    rng = np.random.default_rng(0)
    names = [f"kind {i}" for i in range(16)]
    points = {name: rng.normal(size=(40, 2)) + 8 * i for i, name in enumerate(names)}
    image = scatter(points, "title")
    assert image.dtype == np.uint8 and image.shape[2] == 3
    counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    coloured = [tuple(c) for c, n in zip(*counts, strict=True) if n > 90 and len(set(c.tolist())) > 1]
    assert len(coloured) == 15  # and the first group in grey
    np.testing.assert_array_equal(image, scatter(points, "title"))


def test_points_far_off_lie_on_the_rim_and_one_point_is_enough():
    near = np.zeros((500, 2))
    near[0] = 1e9
    assert scatter({"a": near, "b": np.ones((1, 2))}, "").shape == scatter({"a": np.zeros((1, 2))}, "").shape
