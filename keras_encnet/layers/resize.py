import keras
import numpy as np
from keras import ops


def interpolation_matrix(in_size, out_size, align_corners):
    """`(out_size, in_size)` float32 weights of linear interpolation along one axis.

    Row `i` holds the weights of output `i`, at the source coordinate that PyTorch's
    `interpolate(mode="bilinear")` gives it: `i · (in − 1) / (out − 1)` with aligned corners, else
    `(i + ½) · in / out − ½`, clipped to the input. Sizes are integers or scalar tensors.

    >>> keras.ops.convert_to_numpy(interpolation_matrix(2, 3, align_corners=True)).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    source = interpolation_source(ops.arange(out_size), in_size, out_size, align_corners)
    return triangle_weights(source, ops.arange(in_size))


def interpolation_source(index, in_size, out_size, align_corners):
    """The float32 input coordinates of the outputs `index`, an array or a tensor of any shape.

    An array of indices and integer sizes give a NumPy array, anything else a tensor."""
    known = isinstance(index, np.ndarray) and isinstance(in_size, int) and isinstance(out_size, int)
    xp, float32 = (np, np.float32) if known else (ops, lambda x: ops.cast(x, "float32"))
    in_length, out_length, index = float32(in_size), float32(out_size), float32(index)
    if align_corners:
        source = index * ((in_length - 1) / xp.maximum(out_length - 1, 1))
    else:
        source = (index + 0.5) * (in_length / out_length) - 0.5
    return xp.clip(source, 0, in_length - 1)


def triangle_weights(source, samples):
    """Weights `(…, n, m)` with which `samples` `(…, m)` are interpolated at coordinates `source`
    `(…, n)`; an array if both are arrays."""
    xp = np if isinstance(source, np.ndarray) and isinstance(samples, np.ndarray) else ops
    samples = samples.astype("float32") if xp is np else ops.cast(samples, "float32")
    distance = xp.expand_dims(source, -1) - xp.expand_dims(samples, -2)
    return xp.maximum(1 - xp.abs(distance), 0)


@keras.saving.register_keras_serializable("keras_encnet")
class BilinearResize(keras.layers.Layer):
    """Resizes feature maps exactly as PyTorch's `interpolate(mode="bilinear")` does.

    `keras.ops.image.resize` cannot align corners, and on TensorFlow it takes no target size that is
    known only at run time. Here each axis is one product with a small matrix, and so is its gradient.

    Input: `inputs` `(batch, height, width, channels)`, and `like` `(batch, new_height, new_width,
    any)`, which only gives the new height and width.
    Output: `(batch, new_height, new_width, channels)`, in the layer's compute dtype.

    Args:
        align_corners: whether the centres of the corner pixels stay where they are (as in
            PyTorch-Encoding) or the outer edges of the image (as in most of mmsegmentation).

    >>> logits, images = np.ones((1, 4, 4, 2), "float32"), np.ones((1, 7, 9, 3), "float32")
    >>> tuple(keras_encnet.layers.BilinearResize()(logits, images).shape)
    (1, 7, 9, 2)
    """

    def __init__(self, align_corners: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.align_corners = align_corners

    def get_config(self):
        return {**super().get_config(), "align_corners": self.align_corners}

    def call(self, inputs, like):
        x = ops.cast(inputs, self.compute_dtype)
        channels = x.shape[-1]
        batch, in_height, in_width, _ = ops.shape(x)
        _, height, width, _ = ops.shape(like)
        rows = interpolation_matrix(in_height, height, self.align_corners)
        columns = interpolation_matrix(in_width, width, self.align_corners)

        x = ops.reshape(x, (batch, in_height, in_width * channels))
        x = ops.matmul(ops.cast(rows, x.dtype), x)
        x = ops.reshape(x, (batch, height, in_width, channels))
        return ops.matmul(ops.cast(columns, x.dtype), x)

    def compute_output_shape(self, inputs_shape, like_shape):
        return (inputs_shape[0], like_shape[1], like_shape[2], inputs_shape[3])
