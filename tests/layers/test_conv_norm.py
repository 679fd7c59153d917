"""ConvNorm: PyTorch's padding, batch statistics, freezing."""

import keras
import numpy as np
import pytest

from backend import numpy
from golden.weights import noise
from keras_encnet.layers import ConvNorm
from keras_encnet.layers.policies import skip_kernel_init


@pytest.mark.parametrize("size", [(6, 7), (9, 8)])
@pytest.mark.parametrize("strides,dilation", [(1, 1), (1, 4), (2, 1)])
def test_pads_both_sides_equally(size, strides, dilation):
    layer = ConvNorm(4, 3, strides=strides, dilation_rate=dilation, relu=False)
    x = noise("x", (1, *size, 3)).astype("float32")
    y = numpy(layer(x))
    assert y.shape == layer.compute_output_shape(x.shape)
    # By hand: a convolution with `dilation` pixels of padding on every side.
    kernel = numpy(layer.kernel)
    padded = np.pad(x[0], ((dilation, dilation), (dilation, dilation), (0, 0)))
    expected = np.zeros(y.shape[1:])
    for i, j in np.ndindex(*y.shape[1:3]):
        for a, b in np.ndindex(3, 3):
            pixel = padded[i * strides + a * dilation, j * strides + b * dilation]
            expected[i, j] += pixel @ kernel[a, b]
    np.testing.assert_allclose(y[0], expected / np.sqrt(1 + 1e-5), atol=1e-5)


def test_training_uses_batch_statistics_and_updates_as_pytorch():
    layer = ConvNorm(3, 1, relu=False)
    x = 3 + 2 * noise("x", (2, 4, 5, 3)).astype("float32")
    layer.build(x.shape)
    y = numpy(layer(x, training=True))
    before = x.reshape(-1, 3) @ numpy(layer.kernel)[0, 0]
    np.testing.assert_allclose(y.reshape(-1, 3).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.reshape(-1, 3).std(0), 1, atol=1e-3)
    np.testing.assert_allclose(numpy(layer.moving_mean), 0.1 * before.mean(0), rtol=1e-4)
    unbiased = before.var(0, ddof=1)
    np.testing.assert_allclose(numpy(layer.moving_variance), 0.9 + 0.1 * unbiased, rtol=1e-4)


def test_frozen_layer_keeps_its_statistics():
    layer = ConvNorm(3, 1)
    x = 3 + noise("x", (2, 4, 5, 3)).astype("float32")
    expected = numpy(layer(x))
    layer.trainable = False
    np.testing.assert_array_equal(numpy(layer(x, training=True)), expected)
    np.testing.assert_array_equal(numpy(layer.moving_mean), 0)


def test_frozen_statistics_are_used_and_kept_while_the_rest_trains():
    layer = ConvNorm(3, 1, frozen_statistics=True)
    x = 3 + noise("x", (2, 4, 5, 3)).astype("float32")
    expected = numpy(layer(x))
    np.testing.assert_array_equal(numpy(layer(x, training=True)), expected)
    np.testing.assert_array_equal(numpy(layer.moving_mean), 0)
    assert [weight.name for weight in layer.trainable_weights] == ["kernel", "gamma", "beta"]
    assert ConvNorm.from_config(layer.get_config()).frozen_statistics


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_statistics_are_float32_in_half_precision(policy):
    layer = ConvNorm(2, 1, relu=False, dtype=keras.DTypePolicy(policy))
    # A mean of 300 and a spread of 1: squares overflow float16, differences vanish in bfloat16.
    x = (300 + noise("x", (2, 16, 16, 1))).astype("float32")
    layer.build(x.shape)
    layer.kernel.assign(np.ones((1, 1, 1, 2)))
    layer(keras.ops.cast(x, layer.compute_dtype), training=True)
    seen = numpy(keras.ops.cast(keras.ops.cast(x, layer.compute_dtype), "float32"))
    np.testing.assert_allclose(numpy(layer.moving_mean), 0.1 * seen.mean(), rtol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_variance), 0.9 + 0.1 * seen.var(ddof=1), rtol=1e-3)


def test_kernels_are_random_except_inside_skip_kernel_init():
    def kernel():
        layer = ConvNorm(4, 3)
        layer.build((None, 8, 8, 2))
        return keras.ops.convert_to_numpy(layer.kernel)

    with skip_kernel_init():
        assert not kernel().any()
    assert kernel().all()
