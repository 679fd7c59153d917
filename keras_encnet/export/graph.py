"""What is exported: one graph from `uint8` images to label maps, as `model.segment` makes them.

images ─ resize ─ windows ─ folded network ─┬─ presence
                                            └─ coarse logits ─ a matrix for each axis ─ argmax ─ labels

`inference.segment` says what the steps are; here they are operations of a TensorFlow graph, for sizes
that may be known only when it runs. Sizes are Python integers where they are known, and what follows
from those alone becomes a constant.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_encnet.inference.segment import evaluation_rule
from keras_encnet.layers import ConvNorm
from keras_encnet.layers.resize import interpolation_matrix, interpolation_weights

STRIP = 1 << 22  # how many full-size logits are made at a time


class FoldedConvNorm(ConvNorm):
    """`ConvNorm` outside training, its normalization folded into the weights once and for all.

    Args:
        kernel_dtype: dtype in which the kernel is stored.
    """

    def __init__(self, *args, kernel_dtype="float32", **kwargs):
        super().__init__(*args, **kwargs)
        self.kernel_dtype = kernel_dtype

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer="zeros",
            dtype=self.kernel_dtype,
            autocast=False,
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def folded(self):
        return self.kernel, self.bias

    def _convolve(self, x, kernel):
        import tensorflow as tf

        # Keras's convolution dilates by moving pixels into the batch and back, which costs time in
        # every runtime. Gradients need it; here there are none.
        side = self.dilation_rate * (self.kernel_size - 1) // 2
        padding = [[0, 0], [side, side], [side, side], [0, 0]]
        kernel = ops.cast(kernel, x.dtype)
        return tf.nn.conv2d(x, kernel, self.strides, padding, dilations=self.dilation_rate)


def folded(model, kernel_dtype="float32"):
    """A `keras.Model` from float32 images to the coarse `"pixel"` logits and `"se"`.

    It computes in float32 whatever the model's policy, with copies of its weights, and without the
    batch norms that a convolution can take in."""
    copies = []

    def copy(layer):
        config = {**layer.get_config(), "dtype": "float32"}
        if isinstance(layer, ConvNorm):
            made = FoldedConvNorm.from_config({**config, "kernel_dtype": kernel_dtype})
        else:
            made = type(layer).from_config(config)
        copies.append((layer, made))
        return made

    network = keras.models.clone_model(model._coarse, clone_function=copy, recursive=True)
    for layer, made in copies:
        folds = isinstance(layer, ConvNorm)
        made.set_weights(layer.folded() if folds else layer.get_weights())
    return network


class ImageToLabels(keras.Model):
    """`uint8` `images` `(batch, height, width, 3)` to a dictionary of the outputs that are wanted.

    - `"labels"`: `(batch, height, width)`, `uint8` up to 255 classes, else `uint16`.
    - `"presence"`: `(batch, num_classes)`, `float32`.
    - `"logits"`: `model(images)`, `(batch, height, width, num_classes)`, `float32`.
    - `"probabilities"`: their softmax.

    Args:
        network: what `folded(model)` gave.
        model: the `EncNet`, or another such graph, whose way of evaluation it follows.
        outputs: which of them.
    """

    def __init__(self, network, model, outputs):
        super().__init__(name=model.name, dtype="float32")
        self.network = network
        self.evaluation = model.evaluation
        self.align_corners = model.align_corners
        self.num_classes = model.num_classes
        self.wanted = tuple(outputs)
        # A runtime may lack one way of doing these, or be slow at it.
        self.argmax = argmax
        self.one_by_one = one_by_one
        self.windows_at_once = False
        self.built = True

    def call(self, images):
        rule, wanted, results = evaluation_rule(self.evaluation), set(self.wanted), {}
        whole = None
        if wanted & {"logits", "probabilities"} or not (rule.resize or rule.window):
            whole = self.network(ops.cast(images, "float32"))
        if wanted & {"logits", "probabilities"}:
            results["logits"] = _resize(whole["pixel"], _size(images), self.align_corners)
            results["probabilities"] = ops.softmax(results["logits"])
        if wanted & {"labels", "presence"}:
            size = view = _size(images)
            aligned = rule.protocol == "pytorch-encoding"
            if rule.resize:
                view = fitted(size, rule.resize)
                images = _resize_image(images, size, view, aligned)
            axes = windows(view, rule)
            if rule.resize or rule.window:
                mosaic, results["presence"] = self._look(images, axes)
            else:
                mosaic = ops.expand_dims(whole["pixel"], 0)
                results["presence"] = _presence(whole)
            if "labels" in wanted:
                results["labels"] = self._labels(mosaic, axes, size, rule)
        return {name: results[name] for name in self.wanted}

    def _look(self, images, axes):
        """The coarse logits of each window, `(windows, batch, h, w, classes)`, and the presence."""
        rows, columns = axes
        # Windows that are not shifted back inside see black beyond the border.
        beyond = [axis.end - axis.view for axis in axes]
        if any(not known(side) or side for side in beyond):
            # As float32, for LiteRT pads no bytes.
            images = ops.cast(images, "float32")
            images = ops.pad(images, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))

        def look(start):
            top, left = start[0], start[1]
            window = images[:, top : top + rows.length, left : left + columns.length]
            outputs = self.network(ops.cast(window, "float32"))
            return outputs["pixel"], _presence(outputs)

        if known(rows.count, columns.count) and rows.count * columns.count == 1:
            logits, presence = look((0, 0))
            return ops.expand_dims(logits, 0), presence
        if self.windows_at_once:
            outputs = self.network(ops.cast(_cut(images, axes), "float32"))
            pixel = outputs["pixel"]
            _, h, w, classes = ops.shape(pixel)
            windows = rows.count * columns.count
            presence = ops.reshape(_presence(outputs), (windows, -1, classes))
            return ops.reshape(pixel, (windows, -1, h, w, classes)), ops.mean(presence, axis=0)
        starts = ops.stack(ops.meshgrid(rows.starts, columns.starts, indexing="ij"), -1)
        logits = (None, None, None, self.num_classes), "float32"
        presence = (None, self.num_classes), "float32"
        logits, presence = self.one_by_one(look, ops.reshape(starts, (-1, 2)), logits, presence)
        return logits, ops.mean(presence, axis=0)

    def _labels(self, mosaic, axes, size, rule):
        _, batch, h, w, classes = ops.shape(mosaic)
        view = [axis.view for axis in axes]
        seen = [axis.enlarge(side, self.align_corners) for axis, side in zip(axes, (h, w), strict=True)]
        back = [
            interpolation_matrix(*sides, self.align_corners) for sides in zip(view, size, strict=True)
        ]
        if rule.protocol == "pytorch-encoding":
            scores, row_size = _exponential_scores(mosaic, axes, seen[0], self.align_corners)
            if rule.resize:
                mosaic = self._in_strips(
                    scores, view[0], row_size, (None, None, None, classes), "float32"
                )
                mosaic = ops.expand_dims(mosaic, 0)
                scores, row_size = _linear_scores(mosaic, ops.expand_dims(back[0], 1), back[1])
        else:
            rows, columns = (axis.average(each) for axis, each in zip(axes, seen, strict=True))
            if rule.resize:
                rows, columns = ops.matmul(back[0], rows), ops.matmul(back[1], columns)
            rows = ops.reshape(rows, (size[0], axes[0].count, h))
            scores, row_size = _linear_scores(mosaic, rows, columns)

        dtype = "uint8" if self.num_classes <= 255 else "uint16"

        def label(index):
            return ops.cast(self.argmax(scores(index)), dtype)

        return self._in_strips(label, size[0], row_size, (None, None, None), dtype)

    def _in_strips(self, function, rows, row_size, shape, dtype):
        """`function` of the numbers 0 to `rows` − 1, as many at a time as `STRIP` allows.

        What it gives has those rows along axis 1, and takes `row_size` values for each on the way."""
        step = least(most(STRIP // most(row_size, 1), 1), rows)
        count = (rows + step - 1) // step
        if known(count) and count == 1:
            return function(ops.arange(rows))
        index = ops.reshape(ops.minimum(ops.arange(count * step), rows - 1), (count, step))
        strips = self.one_by_one(function, index, (shape, dtype))
        strips = ops.moveaxis(strips, 0, 1)
        batch, _, _, *rest = ops.shape(strips)
        return ops.reshape(strips, (batch, count * step, *rest))[:, :rows]


def _cut(images, axes):
    """All windows of all images, `(windows · batch, height, width, 3)`."""
    for axis, along in enumerate(axes, 1):
        inside = ops.expand_dims(along.starts, 1) + ops.arange(along.length)
        images = ops.take(images, ops.reshape(inside, (-1,)), axis=axis)
    rows, columns = axes
    sides = rows.count, rows.length, columns.count, columns.length * 3
    images = ops.transpose(ops.reshape(images, (-1, *sides)), (1, 3, 0, 2, 4))
    return ops.reshape(images, (-1, rows.length, columns.length, 3))


def _presence(outputs):
    return ops.sigmoid(outputs["se"]) if "se" in outputs else outputs["pixel"][:, 0, 0]


# === Sizes, which may be integers or scalar tensors ===


def known(*sizes):
    return all(isinstance(side, int) for side in sizes)


def least(a, b):
    return min(a, b) if known(a, b) else ops.minimum(a, b)


def most(a, b):
    return max(a, b) if known(a, b) else ops.maximum(a, b)


def _size(images):
    return ops.shape(images)[1:3]


def fitted(size, bound):
    """`size` times the ratio by which it fits into `bound`, rounded; in integers, so exactly."""
    long, short = most(*size), least(*size)
    by_long = max(bound) * short <= min(bound) * long
    if known(long, short):
        to, of = (max(bound), long) if by_long else (min(bound), short)
    else:
        to = ops.where(by_long, max(bound), min(bound))
        of = ops.where(by_long, long, short)
    return tuple((2 * side * to + of) // (2 * of) for side in size)


class Windows(NamedTuple):
    """Where the windows of an axis of `view` pixels start, and how long they are."""

    view: Any
    count: Any
    length: Any
    starts: Any
    end: Any

    def offsets(self):
        """Where each pixel of the axis is in each window, `(view, count)`, inside or not."""
        return ops.expand_dims(ops.arange(self.view), 1) - self.starts

    def enlarge(self, coarse, align_corners):
        """How each pixel of the axis depends on each window's coarse samples, if it is inside."""
        return interpolation_weights(self.offsets(), coarse, self.length, align_corners)

    def average(self, weights):
        """From weights in each window, `(view, count, samples)`, to a matrix over all samples."""
        samples = ops.shape(weights)[-1]
        return ops.reshape(
            weights * ops.expand_dims(self.shares(), -1), (self.view, self.count * samples)
        )

    def shares(self):
        """What each window counts for at each pixel, `(view, count)`."""
        offsets = self.offsets()
        inside = ops.cast((offsets >= 0) & (offsets < self.length), "float32")
        return inside / ops.sum(inside, axis=1, keepdims=True)


def windows(view, rule):
    """The `Windows` of both axes."""
    if not rule.window:
        return [Windows(side, 1, side, ops.zeros(1, "int32"), side) for side in view]
    axes = []
    for side, length, stride in zip(view, rule.window, rule.stride, strict=True):
        count = (most(side - length, 0) + stride - 1) // stride + 1
        starts = ops.arange(count) * stride
        if rule.protocol == "pytorch-encoding":
            axes.append(Windows(side, count, length, starts, (count - 1) * stride + length))
        else:
            length = least(length, side)
            axes.append(Windows(side, count, length, ops.minimum(starts, side - length), side))
    return axes


# === Resizing ===


def _product(rows, x, columns):
    """`rows` · `x` · `columns`ᵀ for each class of `x` `(batch, h, w, classes)`."""
    batch, height, width, classes = ops.shape(x)
    new_height, new_width = ops.shape(rows)[0], ops.shape(columns)[0]
    x = ops.matmul(rows, ops.reshape(x, (batch, height, width * classes)))
    x = ops.matmul(columns, ops.reshape(x, (batch * new_height, width, classes)))
    return ops.reshape(x, (batch, new_height, new_width, classes))


def _resize(x, size, align_corners):
    rows, columns = (
        interpolation_matrix(old, new, align_corners) for old, new in zip(_size(x), size, strict=True)
    )
    return _product(rows, x, columns)


def _resize_image(x, size, view, aligned):
    """As `data.images.resize_image` does, or with aligned corners and without rounding."""
    for axis, (old, new) in enumerate(zip(size, view, strict=True), 1):
        low, weight = _aligned_taps(old, new) if aligned else _taps(old, new)
        high = ops.minimum(low + 1, old - 1)
        weight = ops.reshape(weight, (-1, 1, 1) if axis == 1 else (-1, 1))
        below = ops.cast(ops.take(x, ops.maximum(low, 0), axis=axis), "float32")
        above = ops.cast(ops.take(x, high, axis=axis), "float32")
        x = below + weight * (above - below)
    return x if aligned else ops.floor(x + 0.5)


def _taps(old, new):
    """For each new pixel the old one at or before it, from −1, and the weight of the next."""
    # In integers, for in float32 the weights of large images would be off by more than rounding.
    at = (2 * ops.arange(new) + 1) * old + new
    low = at // (2 * new)
    weight = ops.cast(at - low * (2 * new), "float32") / ops.cast(2 * new, "float32")
    return low - 1, weight


def _aligned_taps(old, new):
    step = ops.cast(old - 1, "float32") / ops.cast(most(new - 1, 1), "float32")
    at = ops.cast(ops.arange(new), "float32") * step
    low = ops.minimum(ops.cast(at, "int32"), old - 1)
    return low, ops.clip(at - ops.cast(low, "float32"), 0, 1)


# === Scores of rows of the image ===


def _linear_scores(mosaic, rows, columns):
    """mmsegmentation's: a function of row numbers, and the size of a row of what it gives.

    `mosaic` is `(windows, batch, h, w, classes)`, `rows` `(height, windows down, h)`, `columns`
    `(width, windows across · w)`."""
    _, batch, _, w, classes = ops.shape(mosaic)
    width, samples = ops.shape(columns)

    def scores(index):
        x = ops.sum(_rows_of(mosaic, ops.take(rows, index, axis=0)), axis=0)
        x = ops.matmul(columns, _beside(x, batch, samples // w, w * classes, classes))
        return ops.reshape(x, (batch, ops.shape(index)[0], width, classes))

    return scores, batch * width * classes


def _exponential_scores(mosaic, axes, enlarge_rows, align_corners):
    """PyTorch-Encoding's, of the image that the windows were cut from: the same."""
    rows, columns = axes
    _, batch, _, w, classes = ops.shape(mosaic)
    enlarge_columns = interpolation_matrix(w, columns.length, align_corners)
    average_columns = columns.average(ops.one_hot(columns.offsets(), columns.length))
    shares = rows.shares()

    def scores(index):
        count = ops.shape(index)[0]
        x = _rows_of(mosaic, ops.take(enlarge_rows, index, axis=0))
        x = ops.matmul(enlarge_columns, ops.reshape(x, (-1, w, classes)))
        # float32 overflows at 88, and these are added up.
        x = ops.exp(ops.minimum(x, 80))
        share = ops.reshape(ops.transpose(ops.take(shares, index, axis=0)), (rows.count, 1, count, 1))
        row = columns.length * classes
        x = ops.sum(share * ops.reshape(x, (rows.count, columns.count * batch, count, row)), axis=0)
        x = ops.matmul(average_columns, _beside(x, batch, columns.count, row, classes))
        return ops.reshape(x, (batch, count, columns.view, classes))

    return scores, batch * rows.count * columns.count * columns.length * classes


def _rows_of(mosaic, weights):
    """Rows `(down, across · batch, rows, w · classes)` of windows, by weights `(rows, down, h)`."""
    _, batch, h, w, classes = ops.shape(mosaic)
    down = ops.shape(weights)[1]
    mosaic = ops.reshape(mosaic, (down, -1, h, w * classes))
    return ops.matmul(ops.expand_dims(ops.transpose(weights, (1, 0, 2)), 1), mosaic)


def _beside(x, batch, across, row, classes):
    """From rows `(across · batch, rows, row)` of windows to `(batch · rows, across · …, classes)`."""
    if known(across) and across == 1:
        return ops.reshape(x, (-1, row // classes, classes))
    x = ops.reshape(x, (across, batch, -1, row))
    return ops.reshape(ops.transpose(x, (1, 2, 0, 3)), (-1, across * (row // classes), classes))


# === What runtimes do differently ===


def argmax(scores):
    """The first largest along the last axis, by TensorFlow's operation.

    Keras's sees to negative zeros, by another operation that OpenVINO lacks."""
    import tensorflow as tf

    return tf.argmax(scores, axis=-1, output_type="int32")


def argmax_by_comparison(scores):
    """The same. To OpenVINO an argmax is a sort, five times slower."""
    classes = scores.shape[-1]
    largest = scores >= ops.max(scores, axis=-1, keepdims=True)
    return ops.min(ops.where(largest, ops.arange(classes, dtype="float32"), float(classes)), axis=-1)


def one_by_one(function, elements, *specs):
    """`function` of each element, stacked; a tensor, or a tuple of them, of these (shape, dtype)."""
    import tensorflow as tf

    specs = tuple(tf.TensorSpec(*spec) for spec in specs)
    signature = specs if len(specs) > 1 else specs[0]
    return tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=1)


def one_by_one_in_a_vector(function, elements, *specs):
    """The same, gathered in a vector that grows: LiteRT has no lists of tensors of any size."""
    import tensorflow as tf

    def step(i, gathered):
        found = function(elements[i])
        found = found if isinstance(found, tuple) else (found,)
        return i + 1, [
            (tf.concat([vector, tf.reshape(x, [-1])], 0), tf.shape(x))
            for (vector, _), x in zip(gathered, found, strict=True)
        ]

    count = ops.shape(elements)[0]
    start = [(tf.zeros([0], dtype), tf.zeros([len(shape)], "int32")) for shape, dtype in specs]
    vectors = [(tf.TensorShape([None]), tf.TensorShape([len(shape)])) for shape, _ in specs]
    _, gathered = tf.while_loop(
        lambda i, _: i < count,
        step,
        (tf.constant(0), start),
        shape_invariants=(tf.TensorShape([]), vectors),
        parallel_iterations=1,
    )
    stacked = tuple(
        tf.reshape(
            vector, [count] + [dims[i] if side is None else side for i, side in enumerate(shape)]
        )
        for (vector, dims), (shape, _) in zip(gathered, specs, strict=True)
    )
    return stacked if len(stacked) > 1 else stacked[0]
