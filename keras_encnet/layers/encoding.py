import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_encnet")
class Encoding(keras.layers.Layer):
    """Residuals to a learned codebook, softly assigned and summed over all positions.

    With features `x_n`, codewords `c_k` and scales `s_k`, as in section 3.1 of the paper:

        a_nk = softmax over k of (s_k · |x_n − c_k|²)        e_k = Σ_n a_nk · (x_n − c_k)

    Two matrix products compute this without the `(batch, N, num_codes, channels)` tensor of
    residuals. The arithmetic is float32 under every dtype policy: in half precision the squared
    distances cancel and the sums over positions overflow.

    Input shape: `(batch, height, width, channels)` or `(batch, N, channels)`, floating point.
    Output shape: `(batch, num_codes, channels)`, in the layer's compute dtype.

    Args:
        num_codes: number of codewords, K. The paper uses 32.

    Raises:
        ValueError: if `num_codes` is not a positive integer, or the input has another rank.

    >>> layer = keras_encnet.layers.Encoding(num_codes=4)
    >>> tuple(layer(np.ones((2, 5, 7, 8), "float32")).shape)
    (2, 4, 8)
    """

    def __init__(self, num_codes: int, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(num_codes, int) or num_codes < 1:
            raise ValueError(f"`num_codes` must be a positive integer. Received: {num_codes!r}")
        self.num_codes = num_codes

    def get_config(self):
        return {**super().get_config(), "num_codes": self.num_codes}

    def build(self, input_shape):
        self._check_rank(input_shape)
        channels = input_shape[-1]
        # The bounds are PyTorch-Encoding's.
        bound = (self.num_codes * channels) ** -0.5
        self.codewords = self.add_weight(
            name="codewords",
            shape=(self.num_codes, channels),
            initializer=keras.initializers.RandomUniform(-bound, bound),
            autocast=False,
        )
        self.scale = self.add_weight(
            name="scale",
            shape=(self.num_codes,),
            initializer=keras.initializers.RandomUniform(-1.0, 0.0),
            autocast=False,
        )

    def call(self, inputs):
        # At least float32; float64 stays float64.
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        batch, *axes, channels = ops.shape(inputs)
        # Not -1, which is unknown for a replica without images.
        positions = axes[0] * axes[1] if len(axes) == 2 else axes[0]
        x = ops.reshape(ops.cast(inputs, dtype), (batch, positions, channels))
        codewords = ops.cast(self.codewords, dtype)
        # Shifting both keeps the residuals. Squares of features far from zero would cancel.
        centre = ops.mean(codewords, axis=0)
        x, codewords = x - centre, codewords - centre

        distances = (
            ops.sum(ops.square(x), axis=-1, keepdims=True)
            - 2 * ops.matmul(x, ops.transpose(codewords))
            + ops.sum(ops.square(codewords), axis=-1)
        )
        assignment = ops.softmax(ops.cast(self.scale, dtype) * distances, axis=-1)
        assigned = ops.matmul(ops.transpose(assignment, (0, 2, 1)), x)
        encoded = assigned - ops.sum(assignment, axis=1)[..., None] * codewords
        return ops.cast(encoded, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        self._check_rank(input_shape)
        return (input_shape[0], self.num_codes, input_shape[-1])

    def _check_rank(self, input_shape):
        if len(input_shape) not in (3, 4) or input_shape[-1] is None:
            raise ValueError(
                "Encoding takes (batch, height, width, channels) or (batch, N, channels) with a "
                f"known number of channels. Received shape: {tuple(input_shape)}"
            )
