import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_encnet")
class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent as PyTorch computes it, which the published recipes rely on.

    With gradient `g`, weight `w` and learning rate `η`:

        v ← momentum · v + (g + weight_decay · w)        w ← w − η · v

    Keras's own SGD multiplies by the learning rate inside `v`, which gives other results whenever the
    rate changes. It also keeps `weight_decay` out of `v`, so that with momentum 0.9 the same number
    decays ten times less.

    Args:
        learning_rate: a number or a schedule.
        momentum: between 0 and 1.
        weight_decay: factor of the weights in the gradient, for every variable.
        name: the optimizer's name.
        **kwargs: see `keras.optimizers.Optimizer`.

    >>> keras_encnet.training.SGD(0.01, momentum=0.9, weight_decay=5e-4).get_config()["momentum"]
    0.9
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        name: str = "sgd",
        **kwargs,
    ):
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        self.gradient_decay = weight_decay

    def update_step(self, gradient, variable, learning_rate):
        gradient = ops.cast(gradient, variable.dtype)
        if self.gradient_decay:
            gradient = gradient + self.gradient_decay * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            self.assign(velocity, self.momentum * velocity + gradient)
            gradient = velocity
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * gradient)

    def get_config(self):
        config = super().get_config()
        del config["nesterov"]
        return {**config, "weight_decay": self.gradient_decay}


@keras.saving.register_keras_serializable("keras_encnet")
class PolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The "poly" schedule of the published recipes: from `initial` down to `end` at the last step.

    Args:
        initial: learning rate at step 0.
        steps: total number of training steps.
        end: learning rate at step `steps`.
        power: exponent, 0.9 in both code bases; 1 gives a straight line.
        warmup: number of steps over which the rate first rises from 0; the recipes have none.

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
