"""Views, windows and the matrices from coarse samples to pixels, against brute force.

Each is computed from integers with NumPy and from tensors with the current backend."""

import math

import numpy as np
import pytest
from keras import ops

from backend import numpy
from keras_encnet.inference.geometry import (
    PROTOCOLS,
    Rule,
    axes_of,
    block_of,
    evaluation_rule,
    final_pixels,
    first_line,
)

# size, view (the resized size), window, stride, protocol
AXES = {
    "whole": (97, None, None, None, "mmsegmentation"),
    "enlarged": (97, 160, None, None, "mmsegmentation"),
    "shrunk": (160, 61, None, None, "mmsegmentation"),
    "window as large as the image": (64, None, 64, 42, "mmsegmentation"),
    "window larger than the image": (40, None, 64, 42, "mmsegmentation"),
    "last window shifted back": (130, None, 64, 42, "mmsegmentation"),
    "many overlapping windows": (131, None, 40, 13, "mmsegmentation"),
    "windows without overlap": (120, None, 40, 40, "mmsegmentation"),
    "enlarged, windows": (97, 150, 64, 41, "mmsegmentation"),
    "shrunk, many windows": (300, 101, 40, 9, "mmsegmentation"),
    "last window over the border": (97, None, 64, 42, "pytorch-encoding"),
    "many windows over the border": (260, None, 40, 13, "pytorch-encoding"),
    "enlarged, last window over the border": (61, 100, 64, 42, "pytorch-encoding"),
    "shrunk, many windows over the border": (200, 99, 40, 11, "pytorch-encoding"),
    "enlarged into a larger window": (33, 40, 64, 42, "pytorch-encoding"),
}
TILE = 29


def axis_of(size, view, window, stride, protocol):
    """An axis of a square image; `size` is an integer or a scalar tensor."""
    pair = [None if side is None else (side, side) for side in (view, window, stride)]
    return axes_of((size, size), Rule(*pair, PROTOCOLS[protocol]))[0]


def tensor(value):
    return ops.convert_to_tensor(value, "int32")


def coarse_of(axis):
    """The number of coarse samples in a window, for stride 8."""
    return math.ceil(axis.length / 8)


def tiles(axis):
    """Runs of pixels over the axis, the last of which reaches over the border."""
    count = math.ceil(axis.size / TILE)
    return np.arange(count * TILE, dtype="int32").reshape(count, TILE)


def starts(axis):
    return [int(axis.start(i)) for i in range(int(axis.count))]


def matrix_by_hand(axis, coarse, align_corners):
    """The matrix `(size, count · coarse)` from coarse samples to pixels, one weight at a time."""

    def taps(index, old, new):
        if align_corners:
            source = index * (old - 1) / max(new - 1, 1)
        else:
            source = min(max((index + 0.5) * old / new - 0.5, 0), old - 1)
        low = math.floor(source)
        return (low, 1 - source + low), (min(low + 1, old - 1), source - low)

    matrix = np.zeros((axis.size, axis.count * coarse))
    for pixel in range(axis.size):
        seen = [(pixel, 1)] if axis.view == axis.size else taps(pixel, axis.view, axis.size)
        for place, share in seen:
            offsets = {i: place - start for i, start in enumerate(starts(axis))}
            offsets = {i: offset for i, offset in offsets.items() if 0 <= offset < axis.length}
            for i, offset in offsets.items():
                for sample, weight in taps(offset, coarse, axis.length):
                    matrix[pixel, i * coarse + sample] += share * weight / len(offsets)
    return matrix


def matrix_of(block, size, samples, apart=False):
    """The same matrix from a `Block`; if windows are kept apart they are averaged here."""
    index, inner, shares, outer = (x if x is None else numpy(x) for x in block)
    if apart:
        runs, k, v = shares.shape
        inner = (inner.reshape(runs, k, v, -1) * shares[..., None]).sum(1)
        inner = inner if outer is None else outer @ inner
    matrix = np.zeros((*inner.shape[:2], samples))
    for run, (places, weights) in enumerate(zip(index, inner, strict=True)):
        for sample, column in zip(places, weights.T, strict=True):
            matrix[run, :, sample] += column
    return matrix.reshape(-1, samples)[:size]


# === Windows ===


def windows(size, window, stride, protocol):
    """The first pixels of the windows of an axis, and their length, the same for tensors."""
    known, unknown = (axis_of(n, None, window, stride, protocol) for n in (size, tensor(size)))
    assert starts(known) == starts(unknown)
    assert (known.count, known.length) == (int(unknown.count), int(unknown.length))
    return starts(known), known.length


def test_windows_lie_where_mmsegmentation_puts_them():
    assert windows(2049, 769, 513, "mmsegmentation") == ([0, 513, 1026, 1280], 769)
    assert windows(1025, 769, 513, "mmsegmentation") == ([0, 256], 769)
    assert windows(500, 769, 513, "mmsegmentation") == ([0], 500)
    assert windows(769, 769, 513, "mmsegmentation") == ([0], 769)
    assert windows(770, 769, 513, "mmsegmentation") == ([0, 1], 769)
    assert windows(769 + 513, 769, 513, "mmsegmentation") == ([0, 513], 769)


def test_windows_lie_where_pytorch_encoding_puts_them():
    # ceil((910 - 480) / 320) + 1 = 3, the last one from 640 to 910 and 210 pixels of black.
    assert windows(910, 480, 320, "pytorch-encoding") == ([0, 320, 640], 480)
    assert windows(260, 480, 320, "pytorch-encoding") == ([0], 480)


def test_stride_is_two_thirds_as_in_the_published_configurations():
    for window, stride in ((769, 513), (480, 320), (576, 384)):
        rule = evaluation_rule({"window": window})
        assert rule.stride == (stride, stride)


# === Blocks ===


@pytest.mark.parametrize("apart", [False, True], ids=["averaged", "apart"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
@pytest.mark.parametrize("name", AXES)
def test_blocks_agree_with_brute_force_and_with_those_of_tensors(name, align_corners, apart):
    size, *rest = AXES[name]
    axis, unknown = axis_of(size, *rest), axis_of(tensor(size), *rest)
    coarse, pixels = coarse_of(axis), tiles(axis)
    samples = axis.count * coarse
    block = block_of(axis, pixels, coarse, align_corners, apart)
    assert all(x is None or isinstance(x, np.ndarray) for x in block)
    assert block.samples.min() >= 0 and block.samples.max() < samples
    expected = matrix_by_hand(axis, coarse, align_corners)
    np.testing.assert_allclose(matrix_of(block, size, samples, apart), expected, atol=1e-4)

    for other in (
        block_of(axis, tensor(pixels), coarse, align_corners, apart),
        block_of(unknown, tensor(pixels), tensor(coarse), align_corners, apart),
    ):
        np.testing.assert_array_equal(numpy(other.samples), block.samples)
        for ours, theirs in zip(block[1:], other[1:], strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                np.testing.assert_allclose(numpy(theirs), ours, atol=1e-4)


def test_resizing_to_the_same_size_changes_nothing():
    # An unknown view may equal the size, and is resized like any other.
    size, *rest = 97, 97, 64, 42, "mmsegmentation"
    axis, unknown = axis_of(size, *rest), axis_of(tensor(size), *rest)
    assert unknown.resized and not axis.resized
    coarse, pixels = coarse_of(axis), tiles(axis)
    blocks = (
        block_of(axis, pixels, coarse, False, False),
        block_of(unknown, tensor(pixels), tensor(coarse), False, False),
    )
    ours, theirs = (matrix_of(block, size, axis.count * coarse) for block in blocks)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
@pytest.mark.parametrize("name", AXES)
def test_weights_of_a_pixel_sum_to_1(name, align_corners):
    axis = axis_of(*AXES[name])
    coarse, pixels = coarse_of(axis), tiles(axis)
    inner = block_of(axis, pixels, coarse, align_corners, False).inner
    np.testing.assert_allclose(inner.sum(2)[pixels < axis.size], 1, atol=1e-5)

    block = block_of(axis, pixels, coarse, align_corners, True)
    np.testing.assert_allclose(block.inner.sum(2), 1, atol=1e-5)
    if block.outer is None:
        weights = block.shares.sum(1)
    else:
        weights = np.einsum("rnv,rv->rn", block.outer, block.shares.sum(1))
    np.testing.assert_allclose(weights[pixels < axis.size], 1, atol=1e-5)


# === One window after the other ===


@pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
@pytest.mark.parametrize("name", AXES)
def test_final_pixels_agree_with_brute_force(name, align_corners):
    size, *rest = AXES[name]
    axis, unknown = axis_of(size, *rest), axis_of(tensor(size), *rest)
    coarse = coarse_of(axis)
    weights = matrix_by_hand(axis, coarse, align_corners).reshape(size, axis.count, coarse)
    depends = weights.max(2) > 1e-6
    for number in range(axis.count):
        final = int(final_pixels(axis, number, align_corners))
        assert int(final_pixels(unknown, tensor(number), align_corners)) == final
        later = np.flatnonzero(depends[:, number + 1 :].any(1))
        first_later = int(later[0]) if len(later) else size
        # A pixel that falls on one of the view exactly may wait for the next window.
        slack = int(axis.resized and number + 1 < axis.count)
        assert first_later - slack <= final <= first_later
    assert final == size


@pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
@pytest.mark.parametrize("name", AXES)
def test_first_lines_agree_with_brute_force(name, align_corners):
    size, *rest = AXES[name]
    axis, unknown = axis_of(size, *rest), axis_of(tensor(size), *rest)
    coarse = coarse_of(axis)
    depends = matrix_by_hand(axis, coarse, align_corners) > 1e-6
    for pixel in (*range(0, size, 7), size - 1):
        first = int(first_line(axis, pixel, coarse, align_corners))
        other = first_line(unknown, tensor(pixel), tensor(coarse), align_corners)
        assert first == int(other) == np.flatnonzero(depends[pixel:].any(0))[0]
    assert int(first_line(axis, size, coarse, align_corners)) == first
