import math
import re
import warnings
from collections.abc import Mapping
from numbers import Real

import keras
from keras import ops

# Names of the layers behind the backbone, the first part of their variables' paths.
HEADS = (
    r"^(bottleneck|lateral\d+|fusion|encoding(_project|_norm)?|gate|aux_conv|(pixel|aux|se)_logits)/"
)


@keras.saving.register_keras_serializable("keras_encnet")
class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent as PyTorch computes it, which the published recipes rely on.

    With gradient `g`, weight `w` and learning rate `η`:

        g ← g + weight_decay · w        v ← momentum · v + g        w ← w − η · v

    and with `nesterov` the last step is `w ← w − η · (g + momentum · v)`.

    Keras's own SGD multiplies by the learning rate inside `v`, which gives other results whenever the
    rate changes. It also keeps `weight_decay` out of `v`, so that with momentum 0.9 the same number
    decays ten times less. And with `gradient_accumulation_steps` it gives a schedule the number of
    batches; here a schedule counts updates of the weights. (The average of `use_ema` is Keras's,
    which moves in every batch.)

    Args:
        learning_rate: a number or a schedule.
        momentum: between 0 and 1.
        weight_decay: factor of the weights in the gradient, for every variable that
            `exclude_from_weight_decay` does not name.
        nesterov: whether to use Nesterov momentum, which needs a momentum above 0.
        learning_rate_factors: `{pattern: factor}`; the learning rate of a variable is multiplied by
            the factor of the first regular expression that its path (`"bottleneck/kernel"`) contains.
            `{training.HEADS: 10.0}` trains EncNet's heads as PyTorch-Encoding does.
        name: the optimizer's name.
        **kwargs: see `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if an argument is out of its range.

    Warns:
        UserWarning: if a pattern is in no path of the model's trainable variables.

    >>> keras_encnet.training.SGD(0.01, momentum=0.9, weight_decay=5e-4).get_config()["momentum"]
    0.9
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        weight_decay: float | None = 5e-4,
        nesterov: bool = False,
        learning_rate_factors: Mapping[str, float] | None = None,
        name: str = "sgd",
        **kwargs,
    ):
        weight_decay = 0.0 if weight_decay is None else weight_decay
        if not (isinstance(weight_decay, Real) and 0 <= weight_decay < math.inf):
            raise ValueError(f"`weight_decay` must be a number from 0 up. Received: {weight_decay!r}")
        if nesterov and not momentum:
            raise ValueError("`momentum` must be above 0 with nesterov=True. Received: 0")
        factors = {} if learning_rate_factors is None else learning_rate_factors
        _check_factors(factors)
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, name=name, **kwargs)
        self.gradient_decay = weight_decay
        self.learning_rate_factors = dict(factors)
        self._undecayed = {"paths": [], "names": []}

    def exclude_from_weight_decay(self, var_list=None, var_names=None) -> None:
        """Leaves variables out of the weight decay, as in Keras; a saved optimizer keeps this.

        Args:
            var_list: list of variables.
            var_names: list of regular expressions, such as `["bias", "gamma", "beta"]`; a variable is
                left out if its name contains one of them.

        Raises:
            ValueError: after training has begun.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` must be called before training begins. Received: an "
                "optimizer with state. Call it before `fit`, or on a new optimizer."
            )
        self._undecayed = {
            "paths": [variable.path for variable in var_list or ()],
            "names": sorted(var_names or ()),
        }

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        # On TensorFlow `update_step` gets variables without a path: so these are lists, by index.
        self._factors = [self._factor_of(variable.path) for variable in variables]
        self._decays = [self._decay_of(variable) for variable in variables]
        for pattern in self.learning_rate_factors:
            if not any(re.search(pattern, variable.path) for variable in variables):
                warnings.warn(
                    "A pattern of `learning_rate_factors` must be in the path of a trainable variable, "
                    f"such as {variables[0].path!r}. Received: {pattern!r}, which is in none.",
                    stacklevel=2,
                )

    def _factor_of(self, path):
        factors = self.learning_rate_factors.items()
        return next((factor for pattern, factor in factors if re.search(pattern, path)), 1.0)

    def _decay_of(self, variable):
        by_name = any(re.search(pattern, variable.name) for pattern in self._undecayed["names"])
        return 0.0 if by_name or variable.path in self._undecayed["paths"] else self.gradient_decay

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        if self._decays[index]:
            gradient = gradient + self._decays[index] * variable
        if self.momentum:
            velocity = self.momentums[index]
            self.assign(velocity, self.momentum * velocity + gradient)
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        rate = ops.cast(learning_rate, variable.dtype) * self._factors[index]
        self.assign_sub(variable, rate * gradient)

    def _get_current_learning_rate(self):
        # Keras's `_iterations` counts batches, `iterations` updates.
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.gradient_decay,
            "learning_rate_factors": dict(self.learning_rate_factors),
            "excluded_from_weight_decay": {key: list(v) for key, v in self._undecayed.items()},
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        excluded = config.pop("excluded_from_weight_decay", None)
        optimizer = super().from_config(config, custom_objects)
        if excluded is not None:
            optimizer._undecayed = excluded
        return optimizer


def _check_factors(factors):
    expected = "`learning_rate_factors` must map regular expressions to numbers from 0 up"
    if not isinstance(factors, Mapping):
        raise ValueError(f"{expected}. Received: {factors!r}")
    for pattern, factor in factors.items():
        if not (isinstance(factor, Real) and 0 <= factor < math.inf and _is_pattern(pattern)):
            raise ValueError(f"{expected}. Received: {pattern!r}: {factor!r}")


def _is_pattern(text):
    try:
        re.compile(text)
    except (re.error, TypeError):
        return False
    return True
