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
from keras_encnet.layers.conv_norm import ConvNorm, FoldedConvNorm
from keras_encnet.layers.resize import interpolation_matrix, interpolation_weights

STRIP = 1 << 22  # how many full-size logits are made at a time


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
        self.built = True

    def call(self, images):
        results = {}
        if {"labels", "presence"} & set(self.wanted):
            scores, rows, columns, results["presence"] = self._look(images)
            if "labels" in self.wanted:
                results["labels"] = self._labels(scores, rows, columns)
        if {"logits", "probabilities"} & set(self.wanted):
            pixel = self.network(ops.cast(images, "float32"))["pixel"]
            results["logits"] = _resize(pixel, _size(images), self.align_corners)
            results["probabilities"] = ops.softmax(results["logits"])
        return {name: results[name] for name in self.wanted}

    def _look(self, images):
        """Scores, for each axis the matrix from them to the images' size, and the presence."""
        rule = evaluation_rule(self.evaluation)
        encoding = rule.protocol == "pytorch-encoding"
        size = view = _size(images)
        x = ops.cast(images, "float32")
        if rule.resize:
            view = fitted(size, rule.resize)
            x = _resize_image(x, size, view, aligned=encoding)
        window, stride = rule.window or (None, None), rule.stride or (None, None)
        axes = [
            Windows.along(*axis, shift_back=not encoding)
            for axis in zip(view, window, stride, strict=True)
        ]
        logits, presence = self._coarse(x, axes)
        if encoding:
            scores = _averaged_exponentials(logits, axes, self.align_corners)
            matrices = [None, None]
        else:
            scores = _side_by_side(logits, axes)
            matrices = [
                axis.average(axis.enlarge(side, self.align_corners))
                for axis, side in zip(axes, ops.shape(logits)[2:4], strict=True)
            ]
        for i in range(2):
            if rule.resize or matrices[i] is None:
                back = interpolation_matrix(view[i], size[i], self.align_corners)
                matrices[i] = back if matrices[i] is None else ops.matmul(back, matrices[i])
        return scores, *matrices, presence

    def _coarse(self, x, axes):
        """The coarse logits of each window, `(windows, batch, h, w, classes)`, and mean presence."""
        # Windows that are not shifted back inside see black beyond the border.
        beyond = [axis.end - axis.view for axis in axes]
        if any(not known(side) or side for side in beyond):
            x = ops.pad(x, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))

        def look(start):
            top, left = start[0], start[1]
            outputs = self.network(x[:, top : top + axes[0].length, left : left + axes[1].length])
            presence = ops.sigmoid(outputs["se"]) if "se" in outputs else outputs["pixel"][:, 0, 0]
            return outputs["pixel"], presence

        rows, columns = axes
        if known(rows.count, columns.count) and rows.count * columns.count == 1:
            logits, presence = (ops.expand_dims(each, 0) for each in look((0, 0)))
        else:
            starts = ops.reshape(
                ops.stack(ops.meshgrid(rows.starts, columns.starts, indexing="ij"), -1), (-1, 2)
            )
            logits = (None, None, None, self.num_classes), "float32"
            logits, presence = one_by_one(look, starts, logits, ((None, self.num_classes), "float32"))
        return logits, ops.mean(presence, axis=0)

    def _labels(self, scores, rows, columns):
        import tensorflow as tf

        dtype = "uint8" if self.num_classes <= 255 else "uint16"

        def label(index):
            values = _product(ops.take(rows, index, axis=0), scores, columns)
            # Not Keras's argmax, which sees to negative zeros by an operation that OpenVINO lacks.
            return ops.cast(tf.argmax(values, axis=-1, output_type="int32"), dtype)

        batch, _, _, classes = ops.shape(scores)
        width = ops.shape(columns)[0]
        each = batch * width * classes
        return in_strips(label, ops.shape(rows)[0], each, (None, None, None), dtype)


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

    @classmethod
    def along(cls, view, window, stride, *, shift_back):
        if window is None:
            return cls(view, 1, view, ops.zeros(1, "int32"), view)
        count = (most(view - window, 0) + stride - 1) // stride + 1
        starts = ops.arange(count) * stride
        if not shift_back:
            return cls(view, count, window, starts, (count - 1) * stride + window)
        length = least(window, view)
        return cls(view, count, length, ops.minimum(starts, view - length), view)

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
        below = ops.take(x, ops.maximum(low, 0), axis=axis)
        x = below + weight * (ops.take(x, high, axis=axis) - below)
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


# === Windows ===


def _side_by_side(logits, axes):
    """From the logits of each window to those of all of them, side by side as they were cut."""
    rows, columns = (axis.count for axis in axes)
    _, batch, h, w, classes = ops.shape(logits)
    x = ops.reshape(logits, (rows, columns, batch, h, w * classes))
    x = ops.transpose(x, (2, 0, 3, 1, 4))
    return ops.reshape(x, (batch, rows * h, columns * w, classes))


def _averaged_exponentials(logits, axes, align_corners):
    """PyTorch-Encoding's scores at the size of the image that the windows were cut from."""
    rows, columns = axes
    _, batch, h, w, classes = ops.shape(logits)
    x = ops.reshape(logits, (rows.count, columns.count, batch, h, w * classes))
    x = ops.transpose(x, (0, 2, 3, 1, 4))
    x = ops.reshape(x, (rows.count, batch, h, columns.count * w * classes))
    enlarge_rows, shares = rows.enlarge(h, align_corners), rows.shares()
    enlarge_columns = interpolation_matrix(w, columns.length, align_corners)
    average_columns = columns.average(ops.one_hot(columns.offsets(), columns.length))

    def strip(index):
        enlarge = ops.transpose(ops.take(enlarge_rows, index, axis=0), (1, 0, 2))
        y = ops.matmul(ops.expand_dims(enlarge, 1), x)
        y = ops.matmul(enlarge_columns, ops.reshape(y, (-1, w, classes)))
        # float32 overflows at 88, and these are added up.
        y = ops.exp(ops.minimum(y, 80))
        count = ops.shape(index)[0]
        y = ops.reshape(y, (rows.count, batch, count, columns.count * columns.length * classes))
        share = ops.transpose(ops.take(shares, index, axis=0))
        y = ops.sum(ops.reshape(share, (rows.count, 1, count, 1)) * y, axis=0)
        y = ops.reshape(y, (batch * count, columns.count * columns.length, classes))
        y = ops.matmul(average_columns, y)
        return ops.reshape(y, (batch, count, columns.view, classes))

    each = batch * rows.count * columns.count * columns.length * classes
    return in_strips(strip, rows.view, each, (None, None, None, classes), "float32")


# === Loops ===


def one_by_one(function, elements, *specs):
    """`function` of each element, stacked; a tensor, or a tuple of them, of these (shape, dtype)."""
    import tensorflow as tf

    # What a loop gathers is a vector that grows: lists of tensors are not for every runtime.
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


def in_strips(function, rows, row_size, shape, dtype):
    """`function` of the numbers 0 to `rows` − 1, as many at a time as `STRIP` allows.

    What it gives has those rows along axis 1, of `row_size` values on the way there; so has this."""
    step = least(most(STRIP // row_size, 1), rows)
    count = (rows + step - 1) // step
    if known(count) and count == 1:
        return function(ops.arange(rows))
    index = ops.minimum(ops.arange(count * step), rows - 1)
    strips = one_by_one(function, ops.reshape(index, (count, step)), (shape, dtype))
    strips = ops.moveaxis(strips, 0, 1)
    batch, _, _, *rest = ops.shape(strips)
    return ops.reshape(strips, (batch, count * step, *rest))[:, :rows]
