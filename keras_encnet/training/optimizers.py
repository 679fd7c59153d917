import math
from numbers import Real

import keras
from keras import ops

from keras_encnet.data.conventions import check_integer, is_integer


@keras.saving.register_keras_serializable("keras_encnet")
class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent as PyTorch computes it, which the published recipes rely on.

    With gradient `g`, weight `w` and learning rate `η`:

        g ← g + weight_decay · w        v ← momentum · v + g        w ← w − η · v

    and with `nesterov` the last step is `w ← w − η · (g + momentum · v)`.

    Keras's own SGD multiplies by the learning rate inside `v`, which gives other results whenever the
    rate changes. It also keeps `weight_decay` out of `v`, so that with momentum 0.9 the same number
    decays ten times less.

    Args:
        learning_rate: a number or a schedule.
        momentum: between 0 and 1.
        weight_decay: factor of the weights in the gradient, for every variable that
            `exclude_from_weight_decay` does not name.
        nesterov: whether to use Nesterov momentum, which needs a momentum above 0.
        name: the optimizer's name.
        **kwargs: see `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if an argument is out of its range.

    >>> keras_encnet.training.SGD(0.01, momentum=0.9, weight_decay=5e-4).get_config()["momentum"]
    0.9
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        weight_decay: float | None = 5e-4,
        nesterov: bool = False,
        name: str = "sgd",
        **kwargs,
    ):
        weight_decay = 0.0 if weight_decay is None else weight_decay
        if not (isinstance(weight_decay, Real) and 0 <= weight_decay < math.inf):
            raise ValueError(f"`weight_decay` must be a number from 0 up. Received: {weight_decay!r}")
        if nesterov and not momentum:
            raise ValueError("`momentum` must be above 0 with nesterov=True. Received: 0")
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, name=name, **kwargs)
        self.gradient_decay = weight_decay

    def update_step(self, gradient, variable, learning_rate):
        gradient = ops.cast(gradient, variable.dtype)
        if self.gradient_decay and self._use_weight_decay(variable):
            gradient = gradient + self.gradient_decay * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            self.assign(velocity, self.momentum * velocity + gradient)
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * gradient)

    def get_config(self):
        return {**super().get_config(), "weight_decay": self.gradient_decay}


@keras.saving.register_keras_serializable("keras_encnet")
class PolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The "poly" schedule of the published recipes: from `initial` down to `end` at the last step.

    Args:
        initial: learning rate at step 0.
        steps: total number of training steps.
        end: learning rate at step `steps`, at most `initial`.
        power: exponent, 0.9 in both code bases; 1 gives a straight line.
        warmup: number of steps over which the rate first rises from 0; the recipes have none.

    Raises:
        ValueError: if an argument is out of its range.

    >>> schedule = keras_encnet.training.PolynomialDecay(0.01, steps=100, power=1.0)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 101)]
    [0.01, 0.005, 0.0001, 0.0001]
    """

    def __init__(
        self,
        initial: float = 0.01,
        *,
        steps: int,
        end: float = 1e-4,
        power: float = 0.9,
        warmup: int = 0,
    ):
        for name, value in {"initial": initial, "power": power}.items():
            if not (isinstance(value, Real) and 0 < value < math.inf):
                raise ValueError(f"`{name}` must be a number above 0. Received: {value!r}")
        check_integer("steps", steps, remedy="Give epochs * the number of batches in an epoch.")
        if not (isinstance(end, Real) and 0 <= end <= initial):
            raise ValueError(
                f"`end` must be from 0 to `initial`, since the rate falls. Received: end={end!r}, "
                f"initial={initial!r}. Pass end=0.0, for instance."
            )
        if not is_integer(warmup) or not 0 <= warmup <= steps:
            raise ValueError(
                f"`warmup` must be an integer from 0 to `steps` ({steps}). Received: {warmup!r}"
            )
        self.initial, self.steps, self.end, self.power = initial, steps, end, power
        self.warmup = warmup

    def __call__(self, step):
        step = ops.cast(step, "float32")
        left = 1 - ops.clip(step / self.steps, 0, 1)
        rate = (self.initial - self.end) * left**self.power + self.end
        return rate * ops.minimum((step + 1) / self.warmup, 1) if self.warmup else rate

    def get_config(self):
        return {
            "initial": self.initial,
            "steps": self.steps,
            "end": self.end,
            "power": self.power,
            "warmup": self.warmup,
        }
