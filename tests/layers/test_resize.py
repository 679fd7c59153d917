"""The bilinear resize against PyTorch's `interpolate`."""

import pathlib

import keras
import numpy as np
import pytest

from backend import dot, gradients, numpy
from golden.weights import noise
from keras_encnet.layers import BilinearResize

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "layers.npz")
CORNERS = {"corners": True, "centres": False}


def cases(kind):
    return [key.split("/", 1)[1] for key in GOLDEN.files if key.startswith(f"{kind}/")]


def sizes(case):
    sizes, corners = case.split("/")
    old, new = (tuple(map(int, size.split("x"))) for size in sizes.split("-"))
    return old, new, CORNERS[corners]


@pytest.mark.parametrize("case", cases("resize"))
def test_agrees_with_pytorch(case):
    (h, w), (height, width), corners = sizes(case)
    x = noise("resize", (1, h, w, 2)).astype("float32")
    y = BilinearResize(align_corners=corners)(x, np.zeros((1, height, width, 1), "float32"))
    np.testing.assert_allclose(numpy(y), GOLDEN[f"resize/{case}"], rtol=0, atol=5e-6)


@pytest.mark.parametrize("case", cases("resize_grad"))
def test_gradient_agrees_with_pytorch(case):
    (h, w), (height, width), corners = sizes(case)
    x = noise("resize", (1, h, w, 2)).astype("float32")
    out = noise("out", (1, height, width, 2)).astype("float32")
    layer = BilinearResize(align_corners=corners)
    (grad,) = gradients(lambda x: dot(layer(x, out), out), x)
    np.testing.assert_allclose(grad, GOLDEN[f"resize_grad/{case}"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("corners", [False, True])
def test_one_model_takes_sizes_known_only_at_run_time(corners):
    inputs, like = keras.Input((None, None, 2)), keras.Input((None, None, 3))
    model = keras.Model([inputs, like], BilinearResize(corners)(inputs, like))
    assert model.output_shape == (None, None, None, 2)
    for h, w in ((5, 7), (6, 4), (9, 13)):
        x = noise("x", (2, 3, 4, 2)).astype("float32")
        y = model.predict([x, np.zeros((2, h, w, 3), "float32")], verbose=0)
        again = BilinearResize(corners)(x, np.zeros((2, h, w, 3), "float32"))
        assert y.shape == (2, h, w, 2)
        np.testing.assert_allclose(y, numpy(again), atol=1e-6)
