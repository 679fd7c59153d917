import math
from numbers import Real

import keras
from keras import ops

from keras_encnet.data.conventions import check_integer, is_integer


@keras.saving.register_keras_serializable("keras_encnet")
class PolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The "poly" schedule of the published recipes: from `initial` down to `end` in the last step.

    Steps are updates of the weights. `training.SGD` counts them, also with
    `gradient_accumulation_steps=k`, where an epoch has k times fewer updates than batches. Keras's own
    optimizers count batches instead: give them k times as many `steps`.

    The first step, with the rate `initial`, is number 0. By default rates are those of mmengine's
    `PolyLR`, which reaches `end` in step `steps - 1`, after its `LinearLR`, which reaches `initial` in
    step `warmup - 1`. With `inclusive=False` they are those of PyTorch-Encoding's `LR_Scheduler`
    (`end=0.0`, `start_factor=0.0`), which would reach both one step later.

    Args:
        initial: the highest learning rate.
        steps: number of training steps, those of the warm-up included.
        end: learning rate in the last step, and after it; at most `initial`.
        power: exponent, 0.9 in both code bases; 1 gives a straight line.
        warmup: number of steps over which the rate first rises in a straight line;
            the recipes of EncNet have none.
        start_factor: the rate in step 0 of a warm-up, as a fraction of `initial`.
        inclusive: whether the last step has the rate `end`, and the last step of the warm-up `initial`.

    Raises:
        ValueError: if an argument is out of its range.

    >>> schedule = keras_encnet.training.PolynomialDecay(0.01, steps=100, power=1.0)
    >>> [round(float(schedule(step)), 6) for step in (0, 33, 99, 100)]
    [0.01, 0.0067, 0.0001, 0.0001]
    """

    def __init__(
        self,
        initial: float = 0.01,
        *,
        steps: int,
        end: float = 1e-4,
        power: float = 0.9,
        warmup: int = 0,
        start_factor: float = 1e-6,
        inclusive: bool = True,
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
        if not (isinstance(start_factor, Real) and 0 <= start_factor <= 1):
            raise ValueError(f"`start_factor` must be a number from 0 to 1. Received: {start_factor!r}")
        self.initial, self.steps, self.end, self.power = initial, steps, end, power
        self.warmup, self.start_factor, self.inclusive = warmup, start_factor, inclusive

    def __call__(self, step):
        step = ops.cast(step, "float32")
        # Both are integers, so that the differences below are exact.
        rise = max(self.warmup - self.inclusive, 1)
        fall = max(self.steps - self.warmup - self.inclusive, 1)
        left = ops.clip(self.warmup + fall - step, 0, fall) / fall
        rate = (self.initial - self.end) * left**self.power + self.end
        if not self.warmup:
            return rate
        warm = self.initial * (self.start_factor + (1 - self.start_factor) * step / rise)
        return ops.where(step < self.warmup, warm, rate)

    def get_config(self):
        return {
            "initial": self.initial,
            "steps": self.steps,
            "end": self.end,
            "power": self.power,
            "warmup": self.warmup,
            "start_factor": self.start_factor,
            "inclusive": self.inclusive,
        }
