import keras
from keras import ops

from keras_encnet.layers.replicas import global_moments


# Called as Keras's: the class's name is part of the file format.
@keras.saving.register_keras_serializable("keras_encnet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, as PyTorch's in training.

    The statistics are those of the global batch on every backend (Keras's `synchronized=True` knows
    TensorFlow alone), and the moving variance is unbiased. With a mask it is Keras's.

    Args:
        frozen_statistics: whether training normalizes with the moving statistics and leaves them as
            they are, while gamma and beta train.
        **kwargs: as for `keras.layers.BatchNormalization`.

    >>> layer = keras_encnet.layers.BatchNormalization(axis=1)
    >>> tuple(layer(np.ones((2, 4, 8), "float32"), training=True).shape)
    (2, 4, 8)
    """

    def __init__(self, *, frozen_statistics: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.frozen_statistics = frozen_statistics

    def get_config(self):
        return {**super().get_config(), "frozen_statistics": self.frozen_statistics}

    def call(self, inputs, training=None, mask=None):
        training = training and self.trainable and not self.frozen_statistics
        if not training or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        axes = [axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape)]
        mean, variance, count = global_moments(inputs, axes)
        unbiased = variance * (count / ops.maximum(count - 1, 1))
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        outputs = ops.batch_normalization(
            inputs, mean, variance, self.axis, self.beta, self.gamma, self.epsilon
        )
        return ops.cast(outputs, self.compute_dtype)
