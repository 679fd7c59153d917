"""Polygons of annotations: the same pixels as pycocotools."""

import tracemalloc

import numpy as np
import pytest

from keras_encnet.data.annotations.polygons import polygon_runs
from keras_encnet.data.annotations.rle import from_columns, paint


def rasterized(points, height, width):
    columns = np.zeros(height * width, bool)
    paint(columns, polygon_runs(points, height, width), True)
    return from_columns(columns, height, width)


def random_polygons(rng, count):
    """Polygons of many kinds, with an image size for each."""
    for i in range(count):
        height, width = rng.integers(1, 60, 2)
        corners = rng.integers(3, 12)
        size = [width, height]
        yield (
            [
                rng.uniform(0, size, (corners, 2)),  # inside, crossing itself
                rng.uniform(-1, 2, (corners, 2)) * size,  # partly outside
                rng.integers(-5, 65, (corners, 2)).astype(float),
                rng.integers(-10, 130, (corners, 2)) / 2,  # halves, which are rounded
                rng.uniform(0, size, 2) + rng.normal(0, 1, (corners, 2)),  # tiny
                np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size + rng.integers(-1, 2, (4, 2)) / 5,
                np.repeat(rng.uniform(0, size, (2, 2)), [corners, 2], axis=0),  # without an area
                rng.uniform(0, size, 2)  # convex, in one direction or the other
                + rng.uniform(1, 20)
                * np.array([[np.sin(a), np.cos(a)] for a in np.linspace(0, (-1) ** i * 6, corners)]),
                np.concatenate([rng.normal(0, 3000, (3, 2)), rng.uniform(0, size, (2, 2))]),  # far away
            ][i % 9],
            int(height),
            int(width),
        )


def test_polygons_have_the_pixels_of_pycocotools():
    masks = pytest.importorskip("pycocotools.mask")
    for points, height, width in random_polygons(np.random.default_rng(0), 1800):
        codes = masks.frPyObjects([points.ravel().tolist()], height, width)
        expected = masks.decode(codes)[:, :, 0].astype(bool)
        assert (rasterized(points, height, width) == expected).all(), (points.tolist(), height, width)


def test_a_rectangle_covers_the_pixels_between_its_sides():
    mask = rasterized([(1, 1), (3, 1), (3, 4), (1, 4)], 5, 6)
    assert mask[1:4, 1:3].all() and mask.sum() == 6


@pytest.mark.parametrize("points", [[], [(3, 3)], [(1, 1), (4, 4)], [(2, 2)] * 5])
def test_fewer_than_three_corners_cover_nothing(points):
    assert not rasterized(np.reshape(points, (-1, 2)), 8, 8).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1e9])
def test_coordinates_must_be_finite_and_near(value):
    with pytest.raises(ValueError, match="must be finite and at most 268435456 pixels. Received: "):
        polygon_runs([(0, 0), (value, 1), (3, 3)], 8, 8)


def test_memory_depends_on_the_image_and_not_on_the_coordinates():
    far = 2**28
    tracemalloc.start()
    mask = rasterized([(-far, -far), (far, -far), (far, far), (-far, far)], 64, 64)
    # An edge that goes to and fro over an image of 10,000 columns crosses 4 million.
    zigzag = np.stack([np.arange(400) % 2 * 10_000, np.arange(400) / 20], axis=1)
    polygon_runs(zigzag, 20, 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.all() and peak < 200e6
