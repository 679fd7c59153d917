"""Weights and images generated from a few integers, identical in NumPy, Keras and PyTorch.

The golden outputs in this directory and the benchmarks need the same network in two frameworks,
without a file to exchange. Values come from `numpy.random.RandomState`, which NumPy has frozen, and
are uniform, so that they follow from the seed by exact arithmetic.
"""

import numpy as np


def noise(name, shape, seed=0):
    """Uniform float64 values of `shape` in [-1, 1), drawn for `name` (any text) and `seed`.

    >>> noise("x", (2, 3)).shape
    (2, 3)
    >>> bool((noise("x", (4,)) == noise("y", (4,))).any())
    False
    """
    stream = np.random.RandomState(list(f"{seed}/{name}".encode()))
    return 2.0 * stream.random_sample(shape) - 1.0


def weight(key, shape, seed=0):
    """The values of one entry of an EncNet's state dict, as a trained network might have them.

    `key` is the entry's name in mmsegmentation or PyTorch-Encoding, `shape` its PyTorch shape.
    Returns float32, or int64 zeros for a batch counter. Convolutions keep the variance of their
    inputs, residual branches add little to it, and the sums over pixels that Encoding returns are
    normalized to about one, so that no later sigmoid or softmax saturates.

    >>> weight("backbone.layer1.0.conv1.weight", (64, 64, 3, 3)).dtype
    dtype('float32')
    """
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, "int64")
    u = noise(key, shape, seed)
    over_codes = "enc_module.encoding.1." in key or "encmodule.encoding.4." in key
    if key.endswith("codewords"):
        u = 0.6 + 0.6 * u
    elif key.endswith("scale"):
        u = -0.01 + 0.003 * u
    elif key.endswith("running_mean"):
        u = 0.3 * u
    elif key.endswith("running_var"):
        u = (1.0 + 0.5 * u) * (100.0 if over_codes else 1.0)
    elif key.endswith("bias"):
        u = 0.2 * u
    elif len(shape) == 1:
        u = (1.0 + 0.5 * u) * _gain(key)
    else:
        u *= np.sqrt(6.0 / np.prod(shape[1:]))
    return u.astype("float32")


def _gain(key):
    if key.startswith(("backbone.", "pretrained.")):
        # In a bottleneck block .bn2. is not the last norm, and a small gain there does no harm.
        return 0.3 if ".layer" in key and (".bn2." in key or ".bn3." in key) else 1.0
    before_encoding = "encoding_project" in key or "encmodule.encoding.1." in key
    return 1.0 if before_encoding else 0.4


def state_dict(shapes, seed=0):
    """The complete state dict, `{key: array}`, for `shapes`, `{key: shape}`."""
    return {key: weight(key, tuple(shape), seed) for key, shape in shapes.items()}


def encoding_inputs(shape, seed, offset=0.0):
    """Inputs of the Encoding layer for `shape` (B, H, W, C, K): x (B, H, W, C), codewords (K, C)
    and scale (K,) in (-1, 0], float32. `offset` moves the first two away from the origin, where
    distances cancel.

    >>> [values.shape for values in encoding_inputs((2, 5, 7, 8, 6), seed=0)]
    [(2, 5, 7, 8), (6, 8), (6,)]
    """
    batch, height, width, channels, codes = (int(n) for n in shape)
    x = offset + noise("x", (batch, height, width, channels), seed)
    codewords = offset + noise("codewords", (codes, channels), seed)
    scale = -0.5 - 0.5 * noise("scale", (codes,), seed)
    return x.astype("float32"), codewords.astype("float32"), scale.astype("float32")


def image(seed, height, width):
    """A `uint8` `(height, width, 3)` RGB image: smooth colours with grain.

    >>> image(0, 33, 47).shape
    (33, 47, 3)
    """
    knots = 128.0 + 110.0 * noise("colours", (6, 6, 3), seed)
    smooth = np.einsum("hy,yxc,wx->hwc", _interpolation(height, 6), knots, _interpolation(width, 6))
    grain = 25.0 * noise("grain", (height, width, 3), seed)
    return np.clip(np.round(smooth + grain), 0, 255).astype("uint8")


def _interpolation(size, knots):
    """The matrix `(size, knots)` of linear interpolation."""
    at = np.linspace(0.0, knots - 1.0, size)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(at - np.arange(knots)))
