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


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_nesterov_agrees_with_pytorch(weight_decay):
    torch = pytest.importorskip("torch")
    options = {"momentum": 0.8, "weight_decay": weight_decay, "nesterov": True}
    rng = np.random.default_rng(0)
    start = rng.normal(size=5)
    theirs = torch.nn.Parameter(torch.tensor(start))
    torch_optimizer = torch.optim.SGD([theirs], 1.0, **options)
    ours = keras.Variable(start.astype("float32"))
    optimizer = SGD(1.0, **options)
    for rate in (0.1, 0.1, 0.05, 0.2):
        gradient = rng.normal(size=5)
        torch_optimizer.param_groups[0]["lr"] = optimizer.learning_rate = rate
        theirs.grad = torch.tensor(gradient)
        torch_optimizer.step()
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [ours])
        np.testing.assert_allclose(numpy(ours.value), theirs.detach().cpu().numpy(), atol=1e-6)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.nesterov is True


def test_excluded_variables_do_not_decay():
    weight, bias = (keras.Variable(np.float32([8.0]), name=name) for name in ("weight", "bias"))
    optimizer = SGD(0.5, momentum=0.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([keras.ops.zeros(1)] * 2, [weight, bias])
    assert [float(numpy(v.value)[0]) for v in (weight, bias)] == [6.0, 8.0]


def test_arguments_of_keras_optimizers_have_their_effect():
    variable = keras.Variable(np.float32([8.0]))
    # The gradient of 4 is clipped to 1, before the weight decay of 4 is added.
    optimizer = SGD(0.5, momentum=0.0, weight_decay=0.5, clipvalue=1.0, use_ema=True, ema_momentum=0.5)
    optimizer.apply([4 * keras.ops.ones(1)], [variable])
    assert float(numpy(variable.value)[0]) == 8 - 0.5 * (1 + 4)
    optimizer.finalize_variable_values([variable])
    assert float(numpy(variable.value)[0]) == 5.5  # the average's first value


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight_decay": -1e-4}, r"`weight_decay`.*from 0 up.*-0.0001"),
        ({"weight_decay": float("nan")}, r"`weight_decay`.*from 0 up.*nan"),
        ({"weight_decay": "a"}, r"`weight_decay`.*from 0 up.*'a'"),
        ({"momentum": 0.0, "nesterov": True}, r"`momentum` must be above 0.*nesterov"),
    ],
)
def test_invalid_arguments_of_sgd_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SGD(**options)
    assert SGD(weight_decay=None).get_config()["weight_decay"] == 0.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, r"`steps` must be a positive integer.*0"),
        ({"steps": 2.5}, r"`steps` must be a positive integer.*2.5"),
        ({"steps": float("nan")}, r"`steps` must be a positive integer.*nan"),
        ({"steps": None}, r"`steps` must be a positive integer.*None"),
        ({"steps": "a"}, r"`steps` must be a positive integer.*'a'"),
        ({"steps": True}, r"`steps` must be a positive integer.*True"),
        ({"steps": 9, "initial": None}, r"`initial`.*above 0.*None"),
        ({"steps": 9, "power": "a"}, r"`power`.*above 0.*'a'"),
        ({"steps": 9, "end": None}, r"`end` must be from 0 to `initial`.*None"),
        ({"steps": 9, "warmup": 1.5}, r"`warmup`.*1.5"),
        ({"steps": 9, "initial": 0.0}, r"`initial`.*above 0.*0.0"),
        ({"steps": 9, "power": -1.0}, r"`power`.*above 0.*-1.0"),
        ({"steps": 9, "end": -1e-4}, r"`end` must be from 0 to `initial`.*-0.0001"),
        # Below the default of `end` the rate would rise.
        ({"steps": 9, "initial": 6e-5}, r"`end`.*end=0.0001, initial=6e-05. Pass end=0.0"),
        ({"steps": 9, "warmup": 10}, r"`warmup`.*0 to `steps` \(9\).*10"),
        ({"steps": 9, "warmup": -1}, r"`warmup`.*-1"),
    ],
)
def test_invalid_arguments_of_the_schedule_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PolynomialDecay(**options)


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
