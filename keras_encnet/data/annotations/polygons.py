"""Polygons as runs of pixels, exactly as pycocotools rasterizes them."""

import numpy as np
from numpy.typing import ArrayLike

STEPS = 5  # of a pixel: pycocotools rounds corners to them, and follows edges in them
FARTHEST = 2**28  # a coordinate may be this many pixels away: pycocotools computes with 32 bits
BLOCK = 2**20  # crossings of edges and columns that are held at once


def polygon_runs(points: ArrayLike, height: int, width: int) -> np.ndarray:
    """The pixels of an image that lie in a polygon, as runs down its columns.

    The result is that of pycocotools' `rleFrPoly`, to the last pixel. Corners are rounded to a fifth
    of a pixel. A column of pixels is inside between two crossings of its centre line with the edges,
    so that parts which the polygon covers twice are outside.

    Args:
        points: corners, `(n, 2)`, as x and y in pixels; `(0, 0)` is the upper left corner of the image.
            They may lie outside the image. Fewer than three corners contain no pixel.
        height, width: size of the image in pixels.

    Returns:
        `int64` array `(n, 2)`, sorted: each row is a run `[start, stop)` of positions that are counted
        column by column, `x * height + y`.

    Raises:
        ValueError: if `points` has another shape, or coordinates are not finite or extremely large.

    >>> polygon_runs([(1, 1), (3, 1), (3, 4), (1, 4)], height=5, width=6).tolist()
    [[6, 9], [11, 14]]
    """
    points = np.asarray(points, "float64")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"A polygon must have shape (corners, 2). Received: shape {points.shape}")
    check_coordinates(points)
    starts = np.trunc(STEPS * points + 0.5).astype("int64")
    edges = np.concatenate([starts, np.roll(starts, -1, axis=0)], axis=1)
    x, next_x = edges[:, 0], edges[:, 2]
    # The centre line of column c lies between the steps 5 c + 2 and 5 c + 3.
    first = np.maximum((np.minimum(x, next_x) + 2) // STEPS, 0)
    last = np.minimum((np.maximum(x, next_x) - 3) // STEPS, width - 1)
    crossing = np.flatnonzero(first <= last)
    ends = np.zeros(0, "int64")
    count = max(1, BLOCK // max(1, width))
    for block in range(0, len(crossing), count):
        some = crossing[block : block + count]
        column, y = _crossings(edges[some], first[some], last[some])
        more = column * height + np.clip((y + 2) // STEPS, 0, height)
        # Where two crossings meet, one run ends and the next one starts, or a run is empty.
        ends, uses = np.unique(np.concatenate([ends, more]), return_counts=True)
        ends = ends[uses % 2 == 1]
    return ends.reshape(-1, 2)


def check_coordinates(points: np.ndarray, what: str = "Coordinates") -> None:
    """Raises an error if coordinates are not finite, or too large to compute with.

    Raises:
        ValueError: if there is one; `what` is the subject of the message.
    """
    invalid = ~(np.abs(points) <= FARTHEST)
    if invalid.any():
        raise ValueError(
            f"{what} must be finite and at most {FARTHEST} pixels. Received: {points[invalid][0]:g}"
        )


def _crossings(edges, first, last):
    """The column of each crossing, and its y in steps."""
    counts = last - first + 1
    before = np.cumsum(counts) - counts
    column = np.arange(counts.sum()) + np.repeat(first - before, counts)
    x0, y0, x1, y1 = np.repeat(edges, counts, axis=0).T
    y = np.empty_like(column)
    steep = np.abs(x1 - x0) < np.abs(y1 - y0)
    for part, rule in ((steep, _steep), (~steep, _shallow)):
        y[part] = rule(x0[part], y0[part], x1[part], y1[part], column[part])
    return column, y


def _shallow(x0, y0, x1, y1, column):
    """The upper one of the steps on both sides of the centre line."""
    x0, y0, x1, y1 = _exchanged(x0 > x1, x0, y0, x1, y1)
    slope = (y1 - y0) / (x1 - x0)
    along = STEPS * column + 2 - x0
    return np.trunc(y0 + slope * (along + (slope < 0)) + 0.5)


def _steep(x0, y0, x1, y1, column):
    """The last step before the centre line, from above."""
    x0, y0, x1, y1 = _exchanged(y0 > y1, x0, y0, x1, y1)
    slope = (x1 - x0) / (y1 - y0)
    right = STEPS * column + 3
    along = np.ceil((right - 0.5 - x0) / slope) - 1
    for _ in range(2):  # the division may be off by a rounding error: pycocotools multiplies
        along += (x0 + slope * along + 0.5 >= right) != (slope > 0)
    return y0 + along - 1


def _exchanged(which, x0, y0, x1, y1):
    """Edges in the direction in which pycocotools follows them."""
    return (
        np.where(which, x1, x0),
        np.where(which, y1, y0),
        np.where(which, x0, x1),
        np.where(which, y0, y1),
    )
