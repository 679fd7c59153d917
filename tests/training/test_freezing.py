"""Batch norms that are frozen while kernels train, compared with PyTorch's `eval()`."""

import keras
import numpy as np
import pytest

from keras_encnet import EncNet
from keras_encnet.layers import ConvNorm
from keras_encnet.training import SGD
from keras_encnet.training.freezing import freeze_batch_norms
from training.tiny import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype="uint8")
MASKS = np.random.default_rng(1).integers(0, 3, (2, 32, 48), dtype="uint8")


def is_statistic(variable):
    return variable.name in ("moving_mean", "moving_variance")


def test_statistics_stay_and_all_else_trains():
    model = tiny()
    freeze_batch_norms(model)
    model.compile(SGD(0.1))
    before = model.get_weights()
    model.fit(IMAGES, MASKS, verbose=0)
    moved = [(old != new).any() for old, new in zip(before, model.get_weights(), strict=True)]
    assert moved == [not is_statistic(variable) for variable in model.weights]
    freeze_batch_norms(model, False)
    model.compile(SGD(0.0))
    before = model.get_weights()
    model.fit(IMAGES, MASKS, verbose=0)
    moved = [(old != new).any() for old, new in zip(before, model.get_weights(), strict=True)]
    assert moved == [is_statistic(variable) for variable in model.weights]


def test_a_step_agrees_with_pytorch_s_eval():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 6, 7, 3)), random.normal(size=(2, 6, 7, 4))
    mean, variance = random.normal(size=4), random.uniform(0.5, 2, size=4)

    layer = ConvNorm(4, 3)
    network = keras.Sequential([keras.Input((None, None, 3)), layer])
    freeze_batch_norms(network)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    kernel = keras.ops.convert_to_numpy(layer.kernel).copy()

    convolution, norm = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4)
    norm.eval()
    state = {"running_mean": torch.tensor(mean), "running_var": torch.tensor(variance)}
    norm.load_state_dict(state, strict=False)
    convolution.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
    found = torch.relu(norm(convolution(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32))))
    expected = torch.tensor(y.transpose(0, 3, 1, 2), dtype=torch.float32)
    torch.nn.functional.mse_loss(found, expected).backward()

    network.compile(keras.optimizers.SGD(1.0), "mse")
    network.train_on_batch(x.astype("float32"), y.astype("float32"))
    steps = [
        (kernel - keras.ops.convert_to_numpy(layer.kernel)).transpose(3, 2, 0, 1),
        1 - keras.ops.convert_to_numpy(layer.gamma),
        -keras.ops.convert_to_numpy(layer.beta),
    ]
    for step, parameter in zip(steps, [convolution.weight, norm.weight, norm.bias], strict=True):
        np.testing.assert_allclose(step, parameter.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.moving_mean), mean.astype("float32"))


def test_keras_s_batch_norms_of_ones_own_backbone_are_frozen():
    images = keras.Input((None, None, 3))
    shallow = keras.layers.Conv2D(4, 3, strides=2, padding="same")(images)
    deep = keras.layers.BatchNormalization(name="norm")(shallow)
    model = EncNet(keras.Model(images, [shallow, deep]), 3, head_channels=8)
    freeze_batch_norms(model.backbone)
    assert not model.backbone.get_layer("norm").trainable
    assert not model.get_layer("bottleneck").frozen_statistics
    freeze_batch_norms(model.backbone, False)
    assert model.backbone.get_layer("norm").trainable
