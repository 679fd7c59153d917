"""What is exported: one graph from `uint8` images to label maps, as `model.segment` makes them.

images ─ resize ─ windows ─ folded network ─┬─ presence
                                            └─ coarse logits ─ strips of rows ─ tiles ─ labels

`inference.segment` says what the steps are; here they are operations of a TensorFlow graph, for sizes
that may be known only when it runs.
"""

import keras
from keras import ops

from keras_encnet.export.axes import axes_of, fitted, most, settled
from keras_encnet.export.labels import Labeller, argmax, loop
from keras_encnet.inference.segmenting import evaluation_rule
from keras_encnet.layers import ConvNorm
from keras_encnet.layers.resize import interpolation_matrix


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
    """A `keras.Model` from float32 images to the coarse `"coarse"` logits and `"se"`.

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

    network = keras.models.clone_model(model.coarse_network(), clone_function=copy, recursive=True)
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
        # What suits one runtime does not suit all.
        self.argmax = argmax
        self.thinner_strips = 1
        self.constant_weights = False
        self.built = True

    def call(self, images):
        rule, wanted, results = evaluation_rule(self.evaluation), set(self.wanted), {}
        whole = None
        if wanted & {"logits", "probabilities"} or not (rule.resize or rule.window):
            whole = self._outputs(images)
        if wanted & {"logits", "probabilities"}:
            results["logits"] = _resize(whole["coarse"], _size(images), self.align_corners)
            results["probabilities"] = ops.softmax(results["logits"])
        if wanted & {"labels", "presence"}:
            results["labels"], results["presence"] = self._look(images, whole, rule)
        return {name: results[name] for name in self.wanted}

    def _outputs(self, images):
        """What the network finds in images. In loops converters take variables for something that
        varies, and some runtimes are slow then; so they can be made constants."""
        import tensorflow as tf

        images = ops.cast(images, "float32")
        if not self.constant_weights:
            return self.network(images)
        with tf.init_scope():
            values = [ops.convert_to_numpy(variable) for variable in self.network.variables]
        constants = zip(self.network.variables, map(tf.constant, values), strict=True)
        with keras.StatelessScope(list(constants)):
            return self.network(images)

    def _look(self, images, whole, rule):
        """Labels and presence of images, of which `whole` is what the network finds in them as they
        are."""
        size = view = _size(images)
        if rule.resize:
            view = fitted(size, rule.resize)
            images = _resize_image(images, size, view, aligned=rule.protocol == "pytorch-encoding")
        labeller = Labeller(
            *axes_of(size, view, rule),
            self.align_corners,
            exponential=rule.protocol == "pytorch-encoding",
            dtype="uint8" if self.num_classes <= 255 else "uint16",
            argmax=self.argmax,
            thinner=self.thinner_strips,
        )
        if rule.window:
            labels, presence = self._look_through_windows(images, labeller)
        else:
            outputs = self._outputs(images) if rule.resize else whole
            labels = labeller.all(ops.expand_dims(_rows_first(outputs), 0))
            presence = _presence(outputs)
        return ops.transpose(labels, (1, 0, 2)), presence

    def _look_through_windows(self, images, labeller):
        """Labels `(height, batch, width)` and presence, one row of windows after the other.

        With each those rows of pixels are labelled that no later one has a share in, and what no later
        row of pixels has a share in is forgotten."""
        rows, columns = labeller.rows, labeller.columns
        # In vectors, for the shape of what is seen is not known before the first look.
        nothing = ops.zeros((0,), "float32")

        def look_at_row(number, labels, presence, *kept):
            def look(column, seen, _, presence):
                outputs = self._outputs(_window(images, rows, number, columns, column))
                new = _rows_first(outputs)
                seen = ops.concatenate([seen, ops.reshape(new, (-1,))], axis=0)
                return column + 1, seen, ops.stack(ops.shape(new)), presence + _presence(outputs)

            start = ops.zeros((), "int32"), nothing, ops.zeros((4,), "int32"), presence
            _, seen, shape, presence = loop(lambda column, *_: column < columns.count, look, *start)
            if "labels" in self.wanted:
                shape = shape[0], shape[1], self.num_classes, shape[3]
                bands = [*kept, seen]
                final = settled(rows, number, self.align_corners)
                labels = labeller.add(labels, final, *labeller.strips(bands, number, shape))
                kept = labeller.kept(bands, number, shape)
            return number + 1, labels, presence, *kept

        batch = ops.shape(images)[0]
        kept = [nothing] * rows.overlap
        presence = ops.zeros((batch, self.num_classes), "float32")
        start = ops.zeros((), "int32"), labeller.none(batch), presence, *kept
        _, labels, presence, *_ = loop(lambda number, *_: number < rows.count, look_at_row, *start)
        return labels, presence / ops.cast(rows.count * columns.count, "float32")


def _size(images):
    return ops.shape(images)[1:3]


def _window(images, rows, row, columns, column):
    top, left = rows.start(row), columns.start(column)
    window = images[:, top : top + rows.length, left : left + columns.length]
    window = ops.cast(window, "float32")
    if rows.shifted:
        return window
    # Black, where it reaches over the border.
    height, width = _size(window)
    return ops.pad(window, ((0, 0), (0, rows.length - height), (0, columns.length - width), (0, 0)))


def _rows_first(outputs):
    """The coarse logits as labels are made of them, `(h, batch, classes, w)`."""
    return ops.transpose(outputs["coarse"], (1, 0, 3, 2))


def _presence(outputs):
    return ops.sigmoid(outputs["se"]) if "se" in outputs else outputs["coarse"][:, 0, 0]


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
