"""From the coarse logits of windows to labels, strip by strip: full-size logits never exist.

Every step is linear and separable (`inference.segment` says which they are), but for PyTorch-Encoding's
exponential. The rows of a strip are made of those coarse rows that they depend on; then each tile of
them is made of its own few samples. Classes lie before columns, so that a tile is one matrix product
for all its rows and classes, and so that the best class of many pixels is found at a time. Rows lie
before images, so that more can be added to them.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_encnet.export.axes import (
    known,
    most,
    pixels_of_view,
    samples_of_windows,
    weights_of_samples,
    windows_at,
)
from keras_encnet.layers.resize import interpolation_matrix

STRIP = 1 << 22  # how many full-size logits are made at a time
TILE = 128  # how many pixels of a row, at most, are made of the same samples


class Labeller(NamedTuple):
    """How pixels get their labels.

    `rows` and `columns` are each an `Axis`; `exponential` is PyTorch-Encoding's protocol, else it is
    mmsegmentation's; `argmax` is a function like the one below."""

    rows: Any
    columns: Any
    align_corners: bool
    exponential: bool
    dtype: str
    argmax: Any

    def none(self, batch):
        """The labels of no rows, `(0, batch, width)`."""
        return ops.zeros((0, batch, self.columns.size), self.dtype)

    def all(self, windows):
        """The labels `(height, batch, width)` of what is seen through one row of windows."""
        height = self.rows.size
        label, step = self.strips(windows, 0)
        if known(height, step) and height <= step:
            return label(ops.arange(height))
        return self.add(self.none(ops.shape(windows)[2]), height, windows, 0)

    def add(self, labels, final, windows, last):
        """`labels` `(n, batch, width)`, and what is lacking of their first `final` rows.

        `windows` is `(number, h, batch, classes, w)`: whole rows of windows, one after the other, the
        last of which has the number `last`. Where nothing is lacking it may be anything."""
        label, step = self.strips(windows, last)

        def add(labels):
            done = ops.shape(labels)[0]
            index = ops.arange(done, ops.minimum(done + step, final))
            return ops.concatenate([labels, label(index)], axis=0)

        (labels,) = loop(
            lambda labels: ops.shape(labels)[0] < final, lambda labels: (add(labels),), labels
        )
        return labels

    def strips(self, windows, last):
        """A function from the numbers of some rows to their labels, and how many it can be given."""
        _, _, batch, classes, w = ops.shape(windows)
        rows, columns = self.rows, self.columns
        values = columns.size
        if self.exponential:
            seen = (1 + rows.overlap) * columns.count * columns.length
            values = values + seen * rows.view // rows.size
        step = most(STRIP // most(batch * classes * values, 1), 1)
        make = exponential_rows if self.exponential else linear_rows
        tiles = None if self.exponential and not columns.resized else self.tiles(w)

        def label(index):
            x = make(windows, last, index, rows, columns, self.align_corners)
            labels = self.argmax(x) if tiles is None else self.best_of_tiles(x, *tiles)
            return ops.cast(labels, self.dtype)

        return label, step

    def tiles(self, w):
        """The columns `(tiles, s)` of which tiles of pixels are made, and how: `(tiles, s, tile)`."""
        axis = self.columns
        tiles = (axis.size + TILE - 1) // TILE
        tile = (axis.size + tiles - 1) // tiles
        pixels = ops.minimum(ops.arange(tiles * tile), axis.size - 1)
        pixels, back = pixels_of_view(axis, ops.reshape(pixels, (tiles, tile)), self.align_corners)
        if self.exponential:
            return ops.minimum(pixels, axis.view - 1), ops.transpose(back, (0, 2, 1))
        numbers = windows_at(axis, pixels)
        samples, weights = weights_of_samples(axis, pixels, back, numbers, w, self.align_corners)
        samples = ops.reshape(samples + ops.expand_dims(numbers * w, -1), (tiles, -1))
        return samples, ops.reshape(ops.transpose(weights, (0, 1, 3, 2)), (tiles, -1, tile))

    def best_of_tiles(self, x, samples, weights):
        """The best classes `(n, batch, width)` of rows `x` `(n, batch, classes, columns)`."""
        n, batch, classes, columns = ops.shape(x)
        tiles, count, tile = ops.shape(weights)
        x = ops.take(ops.reshape(x, (-1, columns)), ops.reshape(samples, (-1,)), axis=1)
        x = ops.transpose(ops.reshape(x, (-1, tiles, count)), (1, 0, 2))
        x = self.argmax(ops.reshape(ops.matmul(x, weights), (-1, classes, tile)))
        x = ops.transpose(ops.reshape(x, (tiles, n, batch, tile)), (1, 2, 0, 3))
        return ops.reshape(x, (n, batch, tiles * tile))[:, :, : self.columns.size]


# === Rows ===


def linear_rows(windows, last, index, rows, columns, align_corners):
    """mmsegmentation's: `(n, batch, classes, windows across · w)`, the mean of windows that overlap.

    It is that of logits, and columns can still be enlarged afterwards."""
    _, h, batch, classes, w = ops.shape(windows)
    pixels, back = pixels_of_view(rows, ops.expand_dims(index, 0), align_corners)
    numbers = numbers_of_rows(windows, last, columns)
    samples, weights = weights_of_samples(rows, pixels, back, numbers, h, align_corners)
    coarse = take_rows(windows, samples[0], columns)
    weights = ops.transpose(weights[0], (1, 0, 2))
    n, number, count = ops.shape(weights)
    x = ops.matmul(ops.reshape(weights, (n, number * count)), ops.reshape(coarse, (number * count, -1)))
    return beside(ops.reshape(x, (n, columns.count, batch, classes, w)))


def exponential_rows(windows, last, index, rows, columns, align_corners):
    """PyTorch-Encoding's: `(n, batch, classes, view)`, the mean of the exponentials where windows
    overlap, of which rows but not yet columns are resized to the image."""
    _, h, batch, classes, w = ops.shape(windows)
    pixels, back = pixels_of_view(rows, ops.expand_dims(index, 0), align_corners)
    numbers = numbers_of_rows(windows, last, columns)
    samples, weights, shares = samples_of_windows(rows, pixels, numbers, h, align_corners)
    x = ops.matmul(weights[0], take_rows(windows, samples[0], columns))
    enlarge = ops.transpose(interpolation_matrix(w, columns.length, align_corners))
    x = ops.matmul(ops.reshape(x, (-1, w)), enlarge)
    # float32 overflows at 88, and these are added up.
    x = ops.exp(ops.minimum(x, 80))
    number, n = ops.shape(shares)[1:]
    x = ops.reshape(x, (number, n, -1)) * ops.expand_dims(shares[0], -1)
    x = ops.reshape(ops.sum(x, axis=0), (n, columns.count, batch, classes, columns.length))
    x = mean_of_overlapping(ops.transpose(x, (0, 2, 3, 1, 4)), columns)
    if back is None:
        return x
    n = ops.shape(index)[0]
    x = ops.matmul(back[0], ops.reshape(x, (-1, batch * classes * columns.view)))
    return ops.reshape(x, (n, batch, classes, columns.view))


def numbers_of_rows(windows, last, columns):
    """`(1, k)`: the numbers of the rows of windows that `windows` holds."""
    count = ops.shape(windows)[0] // columns.count
    return ops.expand_dims(ops.arange(count) + (last + 1 - count), 0)


def take_rows(windows, samples, columns):
    """The coarse rows `samples` `(k, m)` of rows of windows, `(k, m, across · batch · classes · w)`."""
    _, h, batch, classes, w = ops.shape(windows)
    number, count = ops.shape(samples)
    first = ops.reshape(ops.arange(number * columns.count) * h, (number, 1, columns.count))
    index = ops.reshape(first + ops.expand_dims(samples, -1), (-1,))
    taken = ops.take(ops.reshape(windows, (-1, batch * classes * w)), index, axis=0)
    return ops.reshape(taken, (number, count, columns.count * batch * classes * w))


def beside(x):
    """`(n, across, batch, classes, w)` to `(n, batch, classes, across · w)`."""
    n, across, batch, classes, w = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 3, 1, 4)), (n, batch, classes, across * w))


def mean_of_overlapping(x, axis):
    """What windows `(…, count, length)` along an axis say of its pixels, on average: `(…, view)`."""
    chunks = -(-axis.length // axis.stride)
    *others, count, length = ops.shape(x)
    zeros = [(0, 0)] * len(others)
    x = ops.pad(x, (*zeros, (0, 0), (0, chunks * axis.stride - length)))
    x = ops.reshape(x, (*others, count, chunks, axis.stride))
    x = sum(ops.pad(x[..., i, :], (*zeros, (i, chunks - 1 - i), (0, 0))) for i in range(chunks))
    x = ops.reshape(x, (*others, (count + chunks - 1) * axis.stride))[..., : axis.view]
    behind = ops.expand_dims(ops.arange(axis.view), 1) - axis.start(ops.arange(axis.count))
    inside = (behind >= 0) & (behind < axis.length)
    return x / ops.sum(ops.cast(inside, "float32"), axis=1)


# === What runtimes do differently ===


def argmax(scores):
    """The first of the largest along the last axis but one, by TensorFlow's operation.

    Keras's sees to negative zeros, by another operation that OpenVINO lacks."""
    import tensorflow as tf

    return tf.argmax(scores, axis=-2, output_type="int32")


def argmax_of_last_axis(scores):
    """The same. LiteRT goes through the last axis several times as fast."""
    import tensorflow as tf

    return tf.argmax(tf.linalg.matrix_transpose(scores), axis=-1, output_type="int32")


def loop(condition, step, *state):
    """Steps while `condition` holds; the first axis of tensors may grow."""
    import tensorflow as tf

    return tf.while_loop(
        condition,
        step,
        state,
        shape_invariants=tuple(
            tf.TensorShape([None] * len(x.shape[:1])).concatenate(x.shape[1:]) for x in state
        ),
        parallel_iterations=1,
    )
