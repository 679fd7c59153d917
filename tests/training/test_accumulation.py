"""Keras's gradient accumulation, average of weights and clipping, with this model and our SGD."""

import keras
import numpy as np
import pytest
from tiny import tiny

from backend import numpy
from keras_encnet.training.freezing import freeze_batch_norms
from keras_encnet.training.optimizers import SGD
from keras_encnet.training.schedules import PolynomialDecay

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 32, 48, 3)).astype("uint8")
MASKS = (IMAGES[..., 0] // 86).astype("uint8")
MASKS[:, :4] = 255


def trained(optimizer, batch_size, frozen=False):
    model = tiny()
    # By moving statistics images do not depend on their batch.
    freeze_batch_norms(model, frozen)
    model.compile(optimizer)
    model.fit(IMAGES, MASKS, batch_size=batch_size, shuffle=False, verbose=0)
    return model


def values_of(model):
    return [numpy(variable.value) for variable in model.trainable_variables]


def largest_difference(before, after):
    return max(abs(a - b).max() for a, b in zip(before, after, strict=True))


def test_two_times_four_images_are_eight():
    def optimizer(**options):
        # The rate changes in each of the two updates: it must not in between.
        return SGD(PolynomialDecay(0.1, steps=2, end=0.02), weight_decay=0.01, **options)

    start = values_of(tiny())
    at_once = trained(optimizer(global_clipnorm=0.5), 8, frozen=True)
    in_parts = trained(optimizer(global_clipnorm=0.5, gradient_accumulation_steps=2), 4, frozen=True)
    assert largest_difference(values_of(at_once), values_of(in_parts)) < 1e-6
    assert largest_difference(start, values_of(at_once)) > 1e-3


def test_a_schedule_counts_updates():
    variable = keras.Variable(np.float32([0.0]))
    schedule = PolynomialDecay(0.8, steps=4, end=0.2, power=1.0)
    optimizer = SGD(schedule, momentum=0.0, weight_decay=0.0, gradient_accumulation_steps=3)
    seen = []
    for _ in range(12):
        optimizer.apply([keras.ops.ones(1)], [variable])
        seen.append(float(numpy(variable.value)[0]))
    expected = np.repeat(-np.cumsum([0, 0.8, 0.6, 0.4, 0.2]), 3)[1 : 12 + 1]
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    assert float(numpy(optimizer.learning_rate)) == pytest.approx(0.2)


def test_the_average_of_the_weights():
    # The same steps, whose weights are averaged by hand.
    options = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    model, averaged = tiny(), tiny()
    model.compile(SGD(**options))
    averaged.compile(SGD(**options, use_ema=True, ema_momentum=0.8))
    expected = None
    for i in range(0, 12, 4):
        for one in (model, averaged):
            one.train_on_batch(IMAGES[i : i + 4], MASKS[i : i + 4])
        now = values_of(model)
        if expected is None:
            expected = now  # the average's first value
        else:
            expected = [0.8 * a + 0.2 * b for a, b in zip(expected, now, strict=True)]
    assert largest_difference(values_of(averaged), now) < 1e-6  # training itself is not changed
    averaged.optimizer.finalize_variable_values(averaged.trainable_variables)  # the end of `fit`
    assert largest_difference(values_of(averaged), expected) < 1e-6
    assert largest_difference(now, expected) > 1e-3


def test_fit_ends_with_the_average():
    model = trained(SGD(0.1, use_ema=True, ema_momentum=0.5), 8)
    averages = model.optimizer._model_variables_moving_average
    for value, average in zip(values_of(model), averages, strict=True):
        np.testing.assert_array_equal(value, numpy(average.value))


@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping_limits_the_step_of_a_model(kind):
    start = values_of(tiny())
    model = tiny()
    model.compile(SGD(1.0, momentum=0.0, weight_decay=0.0, **{kind: 1e-3}))
    model.train_on_batch(IMAGES[:4], MASKS[:4])
    steps = [a - b for a, b in zip(start, values_of(model), strict=True)]
    norms = [np.linalg.norm(step) for step in steps]
    found = {
        "clipnorm": max(norms),
        "global_clipnorm": np.linalg.norm(norms),
        "clipvalue": max(abs(step).max() for step in steps),
    }
    assert found[kind] == pytest.approx(1e-3, rel=1e-3)
