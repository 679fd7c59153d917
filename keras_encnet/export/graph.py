"""What is exported: one graph from `uint8` images to label maps, as `model.segment` makes them.

images ─ resize ─ windows ─ folded network ─┬─ presence
                                            └─ coarse logits ─ strips of rows ─ tiles ─┬─ labels
                                                                                       └─ confidence

`inference.geometry` defines the steps; here they are operations of a TensorFlow graph, for sizes that
may be known only when it runs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
from keras import ops

from keras_encnet.data.conventions import label_dtype
from keras_encnet.export.labels import argmax, extend_maps, loop, no_rows
from keras_encnet.inference.geometry import axes_of, evaluation_rule, final_pixels, first_line
from keras_encnet.layers import ConvNorm
from keras_encnet.layers.resize import interpolation_matrix


class FoldedConvNorm(ConvNorm):
    """`ConvNorm` outside training, with its normalization folded into the stored weights.

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

        # Keras dilates by moving pixels into the batch and back, which is slow in every runtime and
        # only needed for gradients.
        side = self.dilation_rate * (self.kernel_size - 1) // 2
        padding = [[0, 0], [side, side], [side, side], [0, 0]]
        kernel = ops.cast(kernel, x.dtype)
        return tf.nn.conv2d(x, kernel, self.strides, padding, dilations=self.dilation_rate)


def folded(model, kernel_dtype: str = "float32") -> keras.Model:
    """A `keras.Model` from float32 images to the `"coarse"` logits and `"se"`.

    It computes in float32 whatever the model's dtype policy, on copies of its weights, and batch norms
    are folded into the convolutions before them."""
    copies = []

    def copy(layer):
        config = {**layer.get_config(), "dtype": "float32"}
        if isinstance(layer, ConvNorm):
            made = FoldedConvNorm.from_config({**config, "kernel_dtype": kernel_dtype})
        else:
            made = type(layer).from_config(config)
        copies.append((layer, made))
        return made

    network = keras.models.clone_model(model.coarse_network(), clone_function=copy, recursive=True)
    for layer, made in copies:
        folds = isinstance(layer, ConvNorm)
        made.set_weights(layer.folded() if folds else layer.get_weights())
    return network


class Runtime(NamedTuple):
    """What a format's runtime needs of the graph.

    - `argmax`: the function that finds the best class, see `labels.argmax`.
    - `strip`: how many scores are made at once.
    - `blocks`: of how many blocks of strips a map is made; 0: strip by strip. A map is copied each time
      that it grows, and some runtimes keep the memory of every earlier size.
    - `constant_weights`: whether weights are constants of the graph. Converters take a variable in a
      loop for something that varies, and some runtimes are slow then.
    """

    argmax: Callable = argmax
    strip: int = 1 << 22
    blocks: int = 0
    constant_weights: bool = False


class ImageToLabels(keras.Model):
    """`uint8` `images` `(batch, height, width, 3)` to a dict of the wanted outputs.

    - `"labels"`: `(batch, height, width)`, `uint8` up to 255 classes, otherwise `uint16`.
    - `"confidence"`: the probability of that class, `(batch, height, width)`, `float32`.
    - `"presence"`: `(batch, num_classes)`, `float32`.
    - `"logits"`: `model(images)`, `(batch, height, width, num_classes)`, `float32`.
    - `"probabilities"`: their softmax.

    Args:
        network: from `folded(model)`.
        model: the `EncNet`, or another such graph, whose evaluation it follows.
        outputs: which of them.
        runtime: the `Runtime` that will run the graph.
    """

    def __init__(self, network, model, outputs: Sequence[str], runtime=None):
        super().__init__(name=model.name, dtype="float32")
        self.network = network
        self.evaluation = model.evaluation
        self.align_corners = model.align_corners
        self.num_classes = model.num_classes
        self.wanted = tuple(outputs)
        self.runtime = runtime or Runtime()
        self.built = True

    def call(self, images):
        rule, wanted, results = evaluation_rule(self.evaluation), set(self.wanted), {}
        as_given = None
        if wanted & {"logits", "probabilities"} or not (rule.resize or rule.window):
            as_given = self._run(images)
        if wanted & {"logits", "probabilities"}:
            results["logits"] = _resize(as_given["coarse"], _size(images), self.align_corners)
            results["probabilities"] = ops.softmax(results["logits"])
        if wanted & {"labels", "confidence", "presence"}:
            maps, results["presence"] = self._look(images, as_given, rule)
            results |= maps
        return {name: results[name] for name in self.wanted}

    def _run(self, images):
        """The network's outputs for images."""
        import tensorflow as tf

        images = ops.cast(images, "float32")
        if not self.runtime.constant_weights:
            return self.network(images)
        with tf.init_scope():
            values = [ops.convert_to_numpy(variable) for variable in self.network.variables]
        constants = zip(self.network.variables, map(tf.constant, values), strict=True)
        with keras.StatelessScope(list(constants)):
            return self.network(images)

    def _look(self, images, as_given, rule):
        """The wanted maps, a dict, and presence; `as_given` holds the network's outputs for the images
        as they are."""
        rows, columns = axes_of(_size(images), rule)
        if rule.resize:
            images = _resize_image(images, rows, columns, rule.protocol.aligned_resize)
        extend = functools.partial(
            extend_maps,
            rows=rows,
            columns=columns,
            align_corners=self.align_corners,
            exponential=rule.protocol.exponential,
            runtime=self.runtime,
        )
        dtypes = {"labels": label_dtype(self.num_classes), "confidence": "float32"}
        kinds = [name for name in self.wanted if name in dtypes]
        nothing = no_rows(ops.shape(images)[0], columns.size, [dtypes[name] for name in kinds])
        maps = dict(zip(kinds, nothing, strict=True))
        if rule.window:
            maps, presence = self._look_through_windows(images, rows, columns, maps, extend)
        else:
            outputs = self._run(images) if rule.resize else as_given
            coarse, presence = _rows_first(outputs), _presence(outputs)
            if maps:
                lines = ops.reshape(coarse, (ops.shape(coarse)[0], -1))
                maps = extend(maps, rows.size, lines, 0, ops.shape(coarse))
        return {name: ops.transpose(x, (1, 0, 2)) for name, x in maps.items()}, presence

    def _look_through_windows(self, images, rows, columns, maps, extend):
        """Maps `(height, batch, width)` and presence, from one row of windows after the other.

        After each, the rows of pixels that depend on no later one are made, and only those lines of
        coarse logits are kept that later rows of pixels depend on."""

        def look_at_row(row, presence, kept, first, *parts):
            def look(column, seen, _, presence):
                outputs = self._run(_window(images, rows, row, columns, column))
                coarse = _rows_first(outputs)
                # A vector, since the shape of the coarse logits is not known before the loop.
                seen = ops.concatenate([seen, ops.reshape(coarse, (-1,))], axis=0)
                return column + 1, seen, ops.stack(ops.shape(coarse)), presence + _presence(outputs)

            start = ops.zeros((), "int32"), nothing, ops.zeros((4,), "int32"), presence
            _, seen, shape, presence = loop(lambda column, *_: column < columns.count, look, *start)
            if maps:
                h, batch, w = shape[0], shape[1], shape[3]
                line = batch * self.num_classes * columns.count * w
                seen = ops.reshape(seen, (columns.count, h, batch * self.num_classes, w))
                seen = ops.reshape(ops.transpose(seen, (1, 2, 0, 3)), (-1,))
                lines = ops.concatenate([kept, seen], axis=0)
                lines = ops.reshape(lines, (-1, line))
                final = final_pixels(rows, row, self.align_corners)
                made = dict(zip(maps, parts, strict=True))
                made = extend(made, final, lines, first, (h, batch, self.num_classes, w))
                parts = made.values()
                needed = first_line(rows, final, h, self.align_corners)
                kept = ops.reshape(lines[ops.minimum(needed - first, ops.shape(lines)[0]) :], (-1,))
                first = needed
            return row + 1, presence, kept, first, *parts

        nothing, zero = ops.zeros((0,), "float32"), ops.zeros((), "int32")
        presence = ops.zeros((ops.shape(images)[0], self.num_classes), "float32")
        start = zero, presence, nothing, zero, *maps.values()
        _, presence, _, _, *parts = loop(lambda row, *_: row < rows.count, look_at_row, *start)
        presence = presence / ops.cast(rows.count * columns.count, "float32")
        return dict(zip(maps, parts, strict=True)), presence


def _size(images):
    return ops.shape(images)[1:3]


def _window(images, rows, row, columns, column):
    top, left = rows.start(row), columns.start(column)
    window = images[:, top : top + rows.length, left : left + columns.length]
    window = ops.cast(window, "float32")
    if rows.shift_back:
        return window
    # Black beyond the border.
    height, width = _size(window)
    return ops.pad(window, ((0, 0), (0, rows.length - height), (0, columns.length - width), (0, 0)))


def _rows_first(outputs):
    """The coarse logits in the order in which labels are made of them, `(h, batch, classes, w)`."""
    return ops.transpose(outputs["coarse"], (1, 0, 3, 2))


def _presence(outputs):
    return ops.sigmoid(outputs["se"]) if "se" in outputs else outputs["coarse"][:, 0, 0]


# === Resizing ===


def _resize(x, size, align_corners):
    """`x` `(batch, h, w, classes)` resized to `size`, as `BilinearResize` does it."""
    batch, height, width, classes = ops.shape(x)
    rows = interpolation_matrix(height, size[0], align_corners)
    columns = interpolation_matrix(width, size[1], align_corners)
    x = ops.matmul(rows, ops.reshape(x, (batch, height, width * classes)))
    x = ops.matmul(columns, ops.reshape(x, (batch * size[0], width, classes)))
    return ops.reshape(x, (batch, *size, classes))


def _resize_image(x, rows, columns, aligned):
    """As `data.images.resize_image` does, or with aligned corners and without rounding."""
    if aligned:
        for axis, line in ((1, rows), (2, columns)):
            low, weight = _aligned_position(line.size, line.view)
            below, above = _neighbours(x, axis, low, line.size)
            x = below + _along(axis, weight) * (above - below)
        return x
    # OpenCV's integers, which float32 holds exactly up to 2^24: first 11 bits more than a pixel, of
    # which the last four are dropped, and then 22 bits more, of which two are left to round.
    low, weight = _position(columns.size, columns.view)
    below, above = _neighbours(x, 2, low, columns.size)
    x = ops.floor((below * 2048 + _along(2, weight) * (above - below)) / 16)
    low, weight = _position(rows.size, rows.view)
    below, above = _neighbours(x, 1, low, rows.size)
    x = _high_bits(below, _along(1, 2048 - weight)) + _high_bits(above, _along(1, weight))
    return ops.floor((x + 2) / 4)


def _neighbours(x, axis, low, size):
    """The pixels at `low`, from -1, and after them, as float32."""
    high = ops.minimum(low + 1, size - 1)
    return [ops.cast(ops.take(x, at, axis=axis), "float32") for at in (ops.maximum(low, 0), high)]


def _along(axis, weights):
    return ops.reshape(weights, (-1, 1, 1) if axis == 1 else (-1, 1))


def _high_bits(x, weights):
    """`x * weights // 2**16`, for `x` below 2^15 and weights up to 2^11."""
    # The product may have 26 bits.
    coarse = ops.floor(weights / 64)
    return ops.floor((x * coarse + ops.floor(x * (weights - 64 * coarse) / 64)) / 1024)


def _position(old, new):
    """For each new pixel the old one at or before it, from −1, and the weight of the next in 2048ths.

    OpenCV rounds the position to float32 before it takes the weight. A division in two steps gives 24
    binary digits of the fraction, and whether more follow: enough to round as OpenCV does. The sum of
    the first digits and `low` is exact, so that only the last addition rounds."""
    at = (2 * ops.arange(new) + 1) * old + new
    low, behind = at // (2 * new) - 1, at % (2 * new)
    first, behind = behind * 2**8 // (2 * new), behind * 2**8 % (2 * new)
    last, behind = behind * 2**16 // (2 * new), behind * 2**16 % (2 * new)
    floor, first, last, more = (ops.cast(x, "float32") for x in (low, first, last, behind > 0))
    position = (floor + first / 2**8) + (last + more / 2) / 2**24
    return low, ops.round((position - floor) * 2048)


def _aligned_position(old, new):
    """For each new pixel the old one at or before it, and the weight of the next."""
    step = ops.cast(old - 1, "float32") / ops.cast(ops.maximum(new - 1, 1), "float32")
    at = ops.cast(ops.arange(new), "float32") * step
    low = ops.minimum(ops.cast(at, "int32"), old - 1)
    return low, ops.clip(at - ops.cast(low, "float32"), 0, 1)
