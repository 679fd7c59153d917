"""Encoding against both PyTorch originals and the paper's formula in float64."""

import pathlib

import keras
import numpy as np
import pytest

from backend import dot, gradients, numpy
from golden.weights import encoding_inputs, noise
from keras_encnet.layers import Encoding

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "layers.npz")
CASES = sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("encoding/")})


def golden(case, name):
    return GOLDEN[f"encoding/{case}/{name}"]


def built(case, **kwargs):
    x, codewords, scale = encoding_inputs(
        tuple(golden(case, "shape")), int(golden(case, "seed")), float(golden(case, "offset"))
    )
    layer = Encoding(len(codewords), **kwargs)
    layer.build(x.shape)
    layer.codewords.assign(codewords)
    layer.scale.assign(scale)
    return layer, x


@pytest.mark.parametrize("original", ["mmseg", "pytorch_encoding", "exact"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_originals(case, original):
    layer, x = built(case)
    expected = golden(case, original)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(numpy(layer(x)), expected, rtol=0, atol=tolerance)
    flat = x.reshape(len(x), -1, x.shape[-1])
    np.testing.assert_allclose(numpy(layer(flat)), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_agree_with_the_formula_in_float64(case):
    layer, x = built(case)
    b, _, _, c, k = golden(case, "shape")
    out = noise("out", (b, k, c), int(golden(case, "seed"))).astype("float32")

    grads = gradients(
        lambda *args: dot(layer.stateless_call(list(args[1:]), [], args[0])[0], out),
        x,
        numpy(layer.codewords),
        numpy(layer.scale),
    )
    for grad, name in zip(grads, ("grad_x", "grad_codewords", "grad_scale"), strict=True):
        expected = golden(case, name)
        np.testing.assert_allclose(grad, expected, rtol=0, atol=2e-4 * np.abs(expected).max() + 1e-6)


def test_gradient_agrees_with_finite_differences():
    x = noise("x", (1, 3, 2, 4))
    codewords, scale = noise("c", (3, 4)), -np.abs(noise("s", (3,)))
    out = noise("out", (1, 3, 4))
    layer = Encoding(3)
    layer.build(x.shape)

    def loss(x):
        features = x.reshape(-1, 4)
        residual = features[:, None] - codewords
        a = np.exp(scale * (residual**2).sum(-1))
        a /= a.sum(1, keepdims=True)
        return ((a[..., None] * residual).sum(0) * out[0]).sum()

    weights = [codewords.astype("float32"), scale.astype("float32")]
    (grad,) = gradients(
        lambda x: dot(layer.stateless_call(weights, [], x)[0], out.astype("float32")),
        x.astype("float32"),
    )
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-5
        slope = (loss(x + step) - loss(x - step)) / 2e-5
        assert abs(grad[index] - slope) < 2e-4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_computes_in_float32_under_every_policy(policy):
    # 4096 positions around 40: sums reach 160,000, and squared distances lose half their bits.
    x = 40 + noise("x", (1, 64, 64, 8)).astype("float32")
    layer = Encoding(2, dtype=keras.DTypePolicy(policy))
    y = layer(keras.ops.cast(x, layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    exact = Encoding(2)
    exact.build(x.shape)
    exact.set_weights(layer.get_weights())
    rounded = numpy(keras.ops.cast(keras.ops.cast(x, layer.compute_dtype), "float32"))
    expected = numpy(exact(rounded))
    if policy == "mixed_bfloat16":  # float16 cannot hold the sums themselves
        got = numpy(keras.ops.cast(y, "float32"))
        np.testing.assert_allclose(got, expected, rtol=1e-2)


def test_initial_weights_are_pytorch_encodings():
    layer = Encoding(32)
    layer.build((None, None, None, 512))
    codewords, scale = map(numpy, (layer.codewords, layer.scale))
    bound = 1 / np.sqrt(32 * 512)
    assert np.abs(codewords).max() <= bound and codewords.std() == pytest.approx(
        bound / 3**0.5, rel=0.03
    )
    assert scale.min() >= -1 and scale.max() <= 0 and scale.std() > 0.1


def test_symbolic_shapes_and_saving(tmp_path):
    inputs = keras.Input((None, None, 6))
    outputs = Encoding(3, name="encoding")(inputs)
    assert outputs.shape == (None, 3, 6)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    x = noise("x", (2, 5, 4, 6)).astype("float32")
    np.testing.assert_array_equal(numpy(again(x)), numpy(model(x)))


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match="num_codes.*0"):
        Encoding(0)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        Encoding(4)(np.ones((2, 3), "float32"))
