"""Convolutions in 8-bit integers, for ONNX and LiteRT.

Calibration images run through the whole graph, including resize and windows, and record the range of
every tensor that a convolution reads or writes. The network then rounds these tensors to 256 steps of
their range, and kernels to 255 steps of each channel's range, all in float32 ("fake quantization").
LiteRT's converter turns that into integers; in an ONNX file kernels and biases are stored as integers
afterwards.

The quantizers that come with both runtimes work on finished files, but not inside the loop over
windows. The classifier stays in float32: logits of 256 steps would tie.
"""

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_encnet.export.graph import FoldedConvNorm, ImageToLabels

BIAS_STEPS = 1 << 30  # at most: biases are 32-bit integers


def quantized(graph: ImageToLabels, images: Iterable) -> ImageToLabels:
    """A copy of an `ImageToLabels` that rounds as 8-bit integers would.

    Args:
        graph: the one in float32.
        images: calibration images, `uint8` `(height, width, 3)`; they run one by one.
    """
    import tensorflow as tf

    network, roundings, readers = _with_roundings(graph.network)
    calibrating = ImageToLabels(network, graph, graph.wanted)
    look = tf.function(calibrating, input_signature=[tf.TensorSpec((None, None, None, 3), "uint8")])
    for image in images:
        look(image[None])
    for rounding in roundings:
        rounding.settle()
    for convolution, rounding in readers:
        convolution.settle(rounding.step)
    return ImageToLabels(network, graph, graph.wanted, graph.runtime)


def _with_roundings(network):
    """A copy of a network, its roundings, and its convolutions, each with the rounding of its input."""
    roundings, readers, copies, rounded = [], [], [], {}

    def rounding_of(x):
        if isinstance(x._keras_history.operation, Rounding):
            return x
        if id(x) not in rounded:
            roundings.append(Rounding(name=f"rounding{len(roundings)}"))
            # The original is kept as well, so that no other tensor can get its id.
            rounded[id(x)] = roundings[-1](x), x
        return rounded[id(x)][0]

    def copy(layer):
        kind = QuantizedConvNorm if isinstance(layer, FoldedConvNorm) else type(layer)
        copies.append((layer, kind.from_config(layer.get_config())))
        return copies[-1][1]

    def call(layer, *args, **kwargs):
        if isinstance(layer, QuantizedConvNorm):
            x = rounding_of(args[0])
            readers.append((layer, x._keras_history.operation))
            return rounding_of(layer(x))
        # A tensor that is rounded for one reader is rounded for all: sums of integers are cheaper.
        args = keras.tree.map_structure(lambda x: rounded.get(id(x), (x,))[0], args)
        return layer(*args, **kwargs)

    made = keras.models.clone_model(network, clone_function=copy, call_function=call, recursive=True)
    for old, new in copies:
        new.set_weights(old.get_weights())
    return made, roundings, readers


class Rounding(keras.layers.Layer):
    """Records the range of what passes through; once that is settled, rounds to 256 steps of it."""

    step = None

    def build(self, input_shape):
        self.low = self.add_weight(name="low", initializer="zeros", trainable=False)
        self.high = self.add_weight(name="high", initializer="zeros", trainable=False)

    def settle(self):
        # Zero is in the range and becomes one of the steps, because convolutions pad with it.
        low, high = float(self.low), float(self.high)
        self.step = (high - low) / 255 or 1.0
        zero = round(-low / self.step)
        self.range = -zero * self.step, (255 - zero) * self.step

    def call(self, x):
        import tensorflow as tf

        if self.step:
            return tf.quantization.fake_quant_with_min_max_args(x, *self.range)
        self.low.assign(ops.minimum(self.low, ops.min(x)))
        self.high.assign(ops.maximum(self.high, ops.max(x)))
        return x


class QuantizedConvNorm(FoldedConvNorm):
    """Rounds its kernel once it is settled; `step` is that of its input."""

    settled = None

    def settle(self, step):
        kernel, bias = (ops.convert_to_numpy(x) for x in (self.kernel, self.bias))
        self.settled = kernel, bias, 127 * kernel_steps(kernel, bias, step, axis=(0, 1, 2))

    def folded(self):
        import tensorflow as tf

        if self.settled is None:
            return super().folded()
        kernel, bias, bound = self.settled
        kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            kernel, -bound, bound, narrow_range=True
        )
        return kernel, tf.constant(bias)


def kernel_steps(kernel, bias, input_step, axis):
    """The step of each channel of a kernel, so that 127 steps reach its largest value."""
    steps = np.abs(kernel).max(axis) / 127
    # The bias is stored in the input's steps times these. Channels that a network does not use have
    # almost no kernel, and their bias would have more steps than an integer can count.
    least = np.abs(bias) / input_step / BIAS_STEPS
    return np.maximum(steps, np.maximum(least, 1e-12)).astype("float32")


# === ONNX ===


def store_integers(graph):
    """Stores kernels and biases of convolutions with quantized inputs as integers, also in loops."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    sources = {output: node for node in graph.node for output in node.output}
    nodes, replaced = [], set()

    def array(name):
        return numpy_helper.to_array(constants[name])

    def dequantized(values, steps, name):
        """Adds a tensor of integers, in steps along the first axis; returns its name."""
        parts = {"integers": values, "steps": steps, "zeros": np.zeros(len(steps), values.dtype)}
        for part, value in parts.items():
            graph.initializer.append(numpy_helper.from_array(value, f"{name}/{part}"))
        inputs = [f"{name}/{part}" for part in parts]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0))
        return name

    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                store_integers(attribute.g)
        rounding = _rounding_read_by(node, sources)
        if rounding:
            step = array(rounding.input[1])
            # A bias of zeros is left out of the graph.
            kernel, bias = [*(array(name) for name in node.input[1:]), np.float32(0)][:2]
            steps = kernel_steps(kernel, bias, step, axis=(1, 2, 3))
            replaced |= set(node.input[1:])
            kernel = np.rint(kernel / steps[:, None, None, None]).astype("int8")
            node.input[1] = dequantized(kernel, steps, f"{node.name}/kernel")
            if len(node.input) > 2:
                bias = np.rint(bias / (step * steps)).astype("int32")
                node.input[2] = dequantized(bias, step * steps, f"{node.name}/bias")
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for name in replaced.difference(*(node.input for node in nodes)):
        graph.initializer.remove(constants[name])


def _rounding_read_by(node, sources):
    """The `DequantizeLinear` whose output a `Conv` reads, or nothing."""
    if node.op_type == "Conv":
        node = sources.get(node.input[0])
        while node and node.op_type in ("Transpose", "Slice", "Pad"):
            node = sources.get(node.input[0])
        return node if node and node.op_type == "DequantizeLinear" else None
