"""SGD against torch.optim.SGD in float64, and the learning rates of the recipes."""

import pathlib

import keras
import numpy as np
import pytest

from backend import numpy
from keras_encnet.training import SGD, PolynomialDecay

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "training.npz")
CASES = sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("sgd/")})


@pytest.mark.parametrize("name", CASES)
def test_sgd_agrees_with_pytorch_while_the_rate_changes(name):
    case = {key.split("/")[2]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"sgd/{name}/")}
    variable = keras.Variable(case["start"].astype("float32"))
    optimizer = SGD(1.0, momentum=float(case["momentum"]), weight_decay=float(case["weight_decay"]))
    for rate, gradient, after in zip(case["rates"], case["gradients"], case["steps"], strict=True):
        optimizer.learning_rate = float(rate)
        if "matrix" in case:
            gradient = case["matrix"] @ numpy(variable.value) - case["vector"]
        gradient = keras.ops.convert_to_tensor(gradient.astype("float32"))
        optimizer.apply([gradient], [variable])
        np.testing.assert_allclose(numpy(variable.value), after, rtol=0, atol=1e-6)


def test_polynomial_decay_is_mmsegmentations():
    steps, end, power = 160, 1e-4, 0.9
    schedule = PolynomialDecay(0.01, steps=steps, end=end, power=power)
    # mmengine's PolyLR computes each rate from the one before.
    rate, rates = 0.01, [0.01]
    for step in range(1, steps + 1):
        rate = (rate - end) * (1 - 1 / (steps - step + 1)) ** power + end
        rates.append(rate)
    found = [float(schedule(step)) for step in range(0, steps + 1, 20)]
    np.testing.assert_allclose(found, rates[::20], rtol=1e-5)
    assert float(schedule(steps + 50)) == pytest.approx(end)


def test_polynomial_decay_with_warmup():
    schedule = PolynomialDecay(1.0, steps=100, end=0.0, power=1.0, warmup=4)
    found = [float(schedule(step)) for step in range(5)]
    np.testing.assert_allclose(found, [0.25 * 1, 0.5 * 0.99, 0.75 * 0.98, 0.97, 0.96], rtol=1e-6)


def test_the_rate_follows_the_schedule():
    schedule = PolynomialDecay(0.5, steps=2, end=0.0, power=1.0)
    variable = keras.Variable(np.float32([8.0]))
    optimizer = SGD(schedule, momentum=0.0, weight_decay=0.0)
    values = []
    for _ in range(3):
        optimizer.apply([keras.ops.ones(1)], [variable])
        values.append(float(numpy(variable.value)[0]))
    assert values == [7.5, 7.25, 7.25]


def test_config_round_trip():
    schedule = PolynomialDecay(0.02, steps=30, end=1e-3, power=0.5, warmup=3)
    optimizer = SGD(schedule, momentum=0.8, weight_decay=1e-3, clipnorm=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is SGD
    assert again.get_config() == optimizer.get_config()
    assert (again.momentum, again.gradient_decay, again.clipnorm) == (0.8, 1e-3, 2.0)
    assert float(again._learning_rate(7)) == float(schedule(7))
