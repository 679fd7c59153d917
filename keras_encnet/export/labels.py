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
    first_sample,
    known,
    most,
    pixels_of_view,
    samples_of_windows,
    span_of_samples,
    span_of_view,
    windows_at,
)
from keras_encnet.layers.resize import interpolation_matrix

STRIP = 1 << 22  # how many full-size logits are made at a time
TILE = 128  # how many pixels of a row, at most, are made of the same samples


class Labeller(NamedTuple):
    """How pixels get their labels.

    `rows` and `columns` are each an `Axis`; `exponential` is PyTorch-Encoding's protocol, else it is
    mmsegmentation's; `argmax` is a function like the one below; a strip is `STRIP` over `thinner`."""

    rows: Any
    columns: Any
    align_corners: bool
    exponential: bool
    dtype: str
    argmax: Any
    thinner: int

    def none(self, batch):
        """The labels of no rows, `(0, batch, width)`."""
        return ops.zeros((0, batch, self.columns.size), self.dtype)

    def all(self, windows):
        """The labels `(height, batch, width)` of what is seen through one row of windows, `(across, h,
        batch, classes, w)`."""
        height, shape = self.rows.size, ops.shape(windows)
        # A vector of them OpenVINO would take for channels that are shuffled, and fail.
        label, step = self.strips([windows], 0, shape[1:])
        if known(height, step) and height <= step:
            return label(ops.arange(height))
        return self.add(self.none(shape[2]), height, label, step)

    def add(self, labels, final, label, step):
        """`labels` and what they lack of their first `final` rows, `step` of which `label` makes."""

        def add(labels):
            done = ops.shape(labels)[0]
            index = ops.arange(done, ops.minimum(done + step, final))
            return (ops.concatenate([labels, label(index)], axis=0),)

        (labels,) = loop(lambda labels: ops.shape(labels)[0] < final, add, labels)
        return labels

    def strips(self, bands, last, shape):
        """A function from the numbers of some rows to their labels, and how many it can be given.

        `bands` are the last rows of windows, each `(across, rows, batch, classes, w)` or a vector of
        that; of all but the last they are only those rows that `kept` has left. `last` is the last
        one's number, and `shape` is that of its windows, `(h, batch, classes, w)`."""
        h, batch, classes, w = shape
        rows, columns, align_corners = self.rows, self.columns, self.align_corners
        values = columns.size
        if self.exponential:
            seen = len(bands) * columns.count * columns.length
            values = values + seen * (rows.view // rows.size + 1)
        step = most(STRIP // self.thinner // most(batch * classes * values, 1), 1)

        bands = [ops.reshape(band, (columns.count, -1, batch * classes * w)) for band in bands]
        numbers = numbers_until(last, bands)
        firsts = first_sample(rows, numbers, last, h, align_corners)
        # Strips ask for some rows before these, and for bands that there are none of. They weigh
        # nothing.
        more = span_of_samples(rows, span_of_view(rows, step), h)
        bands[:-1] = [ops.pad(band, ((0, 0), (more, 0), (0, 0))) for band in bands[:-1]]
        firsts = firsts - ops.stack([more] * (len(bands) - 1) + [0])
        enlarge = self.exponentials if self.exponential else self.means
        tiles = self.tiles(w) if columns.resized or not self.exponential else None

        def label(index):
            pixels, back = pixels_of_view(rows, ops.expand_dims(index, 0), align_corners)
            numbered = ops.expand_dims(numbers, 0)
            samples, weights, shares = (
                x[0] for x in samples_of_windows(rows, pixels, numbered, h, align_corners)
            )
            count, parts = ops.shape(samples)[1], []
            starts = samples[:, 0] - firsts
            for i, band in enumerate(bands):
                start = ops.minimum(starts[i], ops.shape(band)[1] - count)
                # The exporter of ONNX cannot slice here, for want of a shape.
                parts.append(ops.take(band, start + ops.arange(count), axis=1))
            x = enlarge(parts, weights, shares, None if back is None else back[0], shape)
            labels = self.argmax(x) if tiles is None else self.best_of_tiles(x, *tiles)
            return ops.cast(labels, self.dtype)

        return label, step

    def kept(self, bands, last, shape):
        """What following rows depend on of all `bands` but the first, which are as in `strips`."""
        h, batch, classes, w = shape
        numbers = numbers_until(last, bands)
        had, needed = (
            first_sample(self.rows, numbers, following, h, self.align_corners)
            for following in (last, last + 1)
        )
        kept = []
        for i, band in list(enumerate(bands))[1:]:
            gone = needed[i] - had[i]
            band = ops.reshape(band, (self.columns.count, -1, batch * classes * w))
            count = ops.maximum(ops.shape(band)[1] - gone, 0)
            band = ops.take(band, gone + ops.arange(count), axis=1)
            kept.append(ops.reshape(band, (-1,)))
        return kept

    # === Rows of a strip, of a few coarse rows of each band, `(across, m, batch · classes · w)` ===

    def means(self, parts, weights, shares, back, shape):
        """mmsegmentation's `(n, batch, classes, across · w)`: the mean where windows overlap, of
        logits, so that columns can be enlarged and averaged afterwards."""
        _, batch, classes, w = shape
        weights = weights * ops.expand_dims(shares, -1)
        if back is not None:
            weights = ops.matmul(back, weights)
        number, n, count = ops.shape(weights)
        weights = ops.reshape(ops.transpose(weights, (1, 0, 2)), (n, number * count))
        x = ops.matmul(weights, ops.concatenate(parts, axis=1))
        x = self.beside(ops.reshape(x, (-1, n, batch, classes, w)))
        return ops.reshape(x, (n, batch, classes, self.columns.count * w))

    def exponentials(self, parts, weights, shares, back, shape):
        """PyTorch-Encoding's `(n, batch, classes, view)`: the mean where windows overlap, of
        exponentials, so that columns are enlarged before. They are not yet those of the image."""
        _, batch, classes, w = shape
        columns = self.columns
        enlarge = ops.transpose(interpolation_matrix(w, columns.length, self.align_corners))
        x = 0
        for i, part in enumerate(parts):
            enlarged = ops.matmul(ops.reshape(ops.matmul(weights[i], part), (-1, w)), enlarge)
            n = ops.shape(weights)[1]
            enlarged = ops.reshape(enlarged, (columns.count, n, -1))
            # float32 overflows at 88, and these are added up.
            x = x + ops.exp(ops.minimum(enlarged, 80)) * ops.expand_dims(shares[i], -1)
        x = ops.reshape(x, (columns.count, n, batch, classes, columns.length))
        x = mean_of_overlapping(self.beside(x), columns)
        if back is None:
            return x
        x = ops.matmul(back, ops.reshape(x, (n, batch * classes * columns.view)))
        return ops.reshape(x, (ops.shape(back)[0], batch, classes, columns.view))

    def beside(self, x):
        """`(across, n, batch, classes, w)` to `(n, batch, classes, across, w)`."""
        if known(self.columns.count) and self.columns.count == 1:
            return ops.expand_dims(x[0], 3)
        return ops.transpose(x, (1, 2, 3, 0, 4))

    # === Tiles ===

    def tiles(self, w):
        """The columns `(tiles, s)` of which tiles of pixels are made, and how: `(tiles, s, tile)`."""
        axis = self.columns
        tiles = (axis.size + TILE - 1) // TILE
        tile = (axis.size + tiles - 1) // tiles
        pixels = ops.minimum(ops.arange(tiles * tile), axis.size - 1)
        pixels, back = pixels_of_view(axis, ops.reshape(pixels, (tiles, tile)), self.align_corners)
        if self.exponential:
            # The converter to LiteRT mixes this up with the network's transpositions of three axes.
            back = ops.transpose(ops.expand_dims(back, 1), (0, 1, 3, 2))[:, 0]
            return ops.minimum(pixels, axis.view - 1), back
        numbers = windows_at(axis, pixels)
        samples, weights, shares = samples_of_windows(axis, pixels, numbers, w, self.align_corners)
        weights = weights * ops.expand_dims(shares, -1)
        if back is not None:
            weights = ops.matmul(ops.expand_dims(back, 1), weights)
        samples = samples + ops.expand_dims(numbers * w, -1)
        weights = ops.reshape(ops.transpose(weights, (0, 1, 3, 2)), (tiles, -1, tile))
        return ops.reshape(samples, (tiles, -1)), weights

    def best_of_tiles(self, x, samples, weights):
        """The best classes `(n, batch, width)` of rows `x` `(n, batch, classes, columns)`."""
        n, batch, classes, columns = ops.shape(x)
        tiles, count, tile = ops.shape(weights)
        x = ops.take(ops.reshape(x, (-1, columns)), ops.reshape(samples, (-1,)), axis=1)
        x = swapped(ops.reshape(x, (-1, tiles, count)))
        x = self.argmax(ops.reshape(ops.matmul(x, weights), (-1, classes, tile)))
        x = swapped(ops.reshape(x, (tiles, -1, tile)))
        return ops.reshape(x, (n, batch, tiles * tile))[:, :, : self.columns.size]


def swapped(x):
    """The first two axes of three, one for the other."""
    # Of a transposition that moves nothing the exporter of ONNX makes an invalid reshape.
    if x.shape[0] == 1:
        return ops.expand_dims(x[0], 1)
    if x.shape[1] == 1:
        return ops.expand_dims(x[:, 0], 0)
    return ops.transpose(x, (1, 0, 2))


def numbers_until(last, bands):
    """The number of each band; below zero there is nothing."""
    return last + 1 - len(bands) + ops.arange(len(bands))


def mean_of_overlapping(x, axis):
    """What windows `(…, count, length)` along an axis say of its pixels, on average: `(…, view)`."""
    chunks = max(axis.overlap, 1)
    *others, count, length = ops.shape(x)
    x = ops.reshape(x, (-1, count, length))
    x = ops.pad(x, ((0, 0), (0, 0), (0, chunks * axis.stride - length)))
    x = ops.reshape(x, (-1, count, chunks, axis.stride))
    x = sum(
        ops.pad(ops.take(x, i, axis=2), ((0, 0), (i, chunks - 1 - i), (0, 0))) for i in range(chunks)
    )
    x = ops.reshape(x, (-1, (count + chunks - 1) * axis.stride))
    x = ops.take(x, ops.arange(axis.view), axis=1)
    offsets = ops.expand_dims(ops.arange(axis.view), 1) - axis.start(ops.arange(axis.count))
    inside = (offsets >= 0) & (offsets < axis.length)
    x = x / ops.sum(ops.cast(inside, "float32"), axis=1)
    return ops.reshape(x, (*others, axis.view))


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
    """The state after all steps while `condition` holds; the first axis of tensors may grow."""
    import tensorflow as tf

    shapes = tuple(
        tf.TensorShape([None]).concatenate(x.shape[1:]) if len(x.shape) else x.shape for x in state
    )
    return tf.while_loop(condition, step, state, shape_invariants=shapes, parallel_iterations=1)
