"""The learning rates of mmengine's schedulers and of PyTorch-Encoding's, which ran there."""

import pathlib

import keras
import numpy as np
import pytest

from backend import numpy
from keras_encnet.training.optimizers import SGD
from keras_encnet.training.schedules import PolynomialDecay

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "recipes.npz")
CASES = {
    "mmengine-10": {"steps": 10},
    "mmengine-1": {"steps": 1},
    "mmengine-2000": {"steps": 2000, "end": 0.0},
    "mmengine-warmup": {"steps": 40, "end": 0.0, "power": 1.0, "warmup": 8},
    "mmengine-warmup-01": {"steps": 40, "warmup": 10, "start_factor": 0.1},
    "pytorch-encoding": {"steps": 20, "end": 0.0, "inclusive": False},
    "pytorch-encoding-warmup": {
        "steps": 20, "end": 0.0, "warmup": 8, "start_factor": 0.0, "inclusive": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rates_are_those_of_the_originals(name):
    expected = GOLDEN[f"rates/{name}"]
    found = numpy(PolynomialDecay(0.01, **CASES[name])(keras.ops.arange(len(expected))))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-14)


def test_every_original_is_compared():
    assert {f"rates/{name}" for name in CASES} == {k for k in GOLDEN.files if k.startswith("rates/")}


def test_the_rate_stays_at_the_end():
    schedule = PolynomialDecay(0.01, steps=10)
    assert [float(schedule(step)) for step in (9, 10, 60)] == pytest.approx([1e-4] * 3)
    assert float(PolynomialDecay(0.01, steps=160_000, end=0.0)(159_999)) == 0


def test_ten_steps_of_training_end_at_the_floor():
    optimizer = SGD(PolynomialDecay(0.01, steps=10), momentum=0.0, weight_decay=0.0)
    variable = keras.Variable(np.float32([0.0]))
    values = [0.0]
    for _ in range(10):
        optimizer.apply([keras.ops.ones(1)], [variable])
        values.append(float(numpy(variable.value)[0]))
    np.testing.assert_allclose(-np.diff(values), GOLDEN["rates/mmengine-10"], rtol=1e-3)


def test_config_round_trip():
    schedule = PolynomialDecay(
        0.02, steps=30, end=1e-3, power=0.5, warmup=3, start_factor=0.2, inclusive=False
    )
    schedules = keras.optimizers.schedules
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is PolynomialDecay and again.get_config() == schedule.get_config()
    assert float(again(7)) == float(schedule(7))


def test_a_config_of_an_earlier_version_loads():
    config = {"initial": 0.02, "steps": 30, "end": 1e-3, "power": 0.5, "warmup": 3}
    assert PolynomialDecay.from_config(config).get_config().items() >= config.items()


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
        ({"steps": 9, "start_factor": 1.5}, r"`start_factor` must be a number from 0 to 1.*1.5"),
        ({"steps": 9, "start_factor": None}, r"`start_factor` must be a number from 0 to 1.*None"),
    ],
)
def test_invalid_arguments_of_the_schedule_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PolynomialDecay(**options)
