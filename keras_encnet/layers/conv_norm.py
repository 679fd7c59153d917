import keras
from keras import ops

from keras_encnet.layers.policies import draws_kernels
from keras_encnet.layers.replicas import global_moments, number_of_replicas


@keras.saving.register_keras_serializable("keras_encnet")
class ConvNorm(keras.layers.Layer):
    """Convolution, batch normalization and ReLU: the building block of a ResNet and of EncNet's heads.

    Padding follows PyTorch: the same on both sides, so that a strided convolution samples the same
    pixels as the originals. So do epsilon (1e-5), momentum (0.9 in Keras's convention) and the moving
    variance, which is unbiased. Outside training the normalization is folded into the kernel, which
    saves a pass over the feature map. Statistics are float32 under every dtype policy, and those of the
    global batch if several replicas share it. With `trainable = False`, training also uses the moving
    statistics and does not update them. With `frozen_statistics` it does so too, while kernel, gamma
    and beta train.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ⌈height / strides⌉, ⌈width / strides⌉, filters)`, in the compute dtype.

    Args:
        filters: number of output channels.
        kernel_size: odd height and width of the kernel.
        strides: step of the kernel along both axes.
        dilation_rate: spacing of the pixels that the kernel reads.
        relu: whether a ReLU follows.
        gamma_initializer: `"zeros"` makes a residual branch output zeros at first.
        frozen_statistics: whether training normalizes with the moving statistics and leaves them as
            they are, as PyTorch's `BatchNorm2d.eval()` does. It is read while a training step is
            compiled: after a change call the model's `compile` again.

    Raises:
        ValueError: if both `strides` and `dilation_rate` exceed 1.

    >>> layer = keras_encnet.layers.ConvNorm(8, 3, strides=2)
    >>> tuple(layer(np.ones((1, 6, 7, 3), "float32")).shape)
    (1, 3, 4, 8)
    """

    momentum = 0.9
    epsilon = 1e-5

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        dilation_rate: int = 1,
        relu: bool = True,
        gamma_initializer="ones",
        frozen_statistics: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if strides > 1 and dilation_rate > 1:
            raise ValueError(
                "`strides` and `dilation_rate` cannot both exceed 1: some backends do not support it. "
                f"Received: strides={strides}, dilation_rate={dilation_rate}"
            )
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.dilation_rate = dilation_rate
        self.relu = relu
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.frozen_statistics = frozen_statistics

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
            "relu": self.relu,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "frozen_statistics": self.frozen_statistics,
        }

    def build(self, input_shape):
        def weight(name, shape, initializer, trainable=True):
            # The kernel is cast after folding; everything else is used in float32.
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                trainable=trainable,
                autocast=False,
            )

        vector = (self.filters,)
        kernel = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        # He initialization by fan-out, as in both PyTorch code bases.
        fan_out = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        self.kernel = weight("kernel", kernel, fan_out if draws_kernels() else "zeros")
        self.gamma = weight("gamma", vector, self.gamma_initializer)
        self.beta = weight("beta", vector, "zeros")
        self.moving_mean = weight("moving_mean", vector, "zeros", trainable=False)
        self.moving_variance = weight("moving_variance", vector, "ones", trainable=False)

    def call(self, inputs, training=False):
        if training and self.trainable and not self.frozen_statistics:
            x = self._convolve(inputs, self.kernel)
            x = self._normalize(x)
        else:
            kernel, bias = self.folded()
            x = self._convolve(inputs, kernel)
            x = x + ops.cast(bias, x.dtype)
        return ops.relu(x) if self.relu else x

    def folded(self):
        """The kernel and bias of the plain convolution that this layer is outside training."""
        gain = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
        return self.kernel * gain, self.beta - self.moving_mean * gain

    def _convolve(self, x, kernel):
        strides, padding = self.strides, "same"
        if strides > 1 and self.kernel_size == 1:
            # The same pixels. TensorFlow 2.21's gradient with strides corrupts memory on CPUs.
            x, strides = x[:, ::strides, ::strides], 1
        elif strides > 1:
            # Keras's "same" pads only one side if the stride divides the size.
            side = self.dilation_rate * (self.kernel_size - 1) // 2
            x = ops.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
            padding = "valid"
        return ops.conv(
            x,
            ops.cast(kernel, x.dtype),
            strides=strides,
            padding=padding,
            dilation_rate=self.dilation_rate,
        )

    def _normalize(self, x):
        fused = keras.backend.backend() == "tensorflow" and number_of_replicas() == 1
        normalize = _normalize_fused if fused else _normalize
        x, mean, variance = normalize(x, self.gamma, self.beta, self.epsilon)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return x

    def compute_output_shape(self, input_shape):
        def out(size):
            return None if size is None else -(-size // self.strides)

        return (input_shape[0], out(input_shape[1]), out(input_shape[2]), self.filters)


def _normalize(x, gamma, beta, epsilon):
    """Batch-normalizes `x`; also returns the batch's mean and unbiased variance, float32."""
    x32 = ops.cast(x, "float32")
    mean, variance, count = global_moments(x32, (0, 1, 2))
    gain = gamma * ops.rsqrt(variance + epsilon)
    unbiased = variance * (count / ops.maximum(count - 1, 1))
    return ops.cast(x32 * gain + (beta - mean * gain), x.dtype), mean, unbiased


def _normalize_fused(x, gamma, beta, epsilon):
    """The same in one TensorFlow kernel; on the CPU a training step then takes a quarter less time."""
    import tensorflow as tf

    # The statistics are float32 in half precision too.
    x, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.convert_to_tensor(gamma),
        offset=tf.convert_to_tensor(beta),
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        is_training=True,
    )
    return x, mean, variance
