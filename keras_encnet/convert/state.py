"""Copies the weights of a PyTorch state dict into a model."""

import re
from collections.abc import Callable, Mapping

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.convert.names import BACKBONE_PREFIX, IGNORED, state_key
from keras_encnet.layers.policies import without_memory

# Names of each kind in an error.
MAX_LISTED = 100


def variable_keys(model: keras.Model, code_base: str) -> list[tuple[str, keras.Variable]]:
    """The key of each of a model's variables in a state dict.

    Args:
        model: an `EncNet`, or its backbone.
        code_base: `"mmsegmentation"` or `"pytorch_encoding"`.

    Returns:
        A list of (key, Keras variable), each once, including variables that are not trainable.

    >>> model = keras_encnet.EncNet("resnet18", 2, width=0.125, head_channels=8)
    >>> variables = dict(variable_keys(model, "mmsegmentation"))
    >>> tuple(variables["decode_head.conv_seg.weight"].shape)
    (1, 1, 8, 2)
    """
    # Every variable belongs to a layer without sublayers. Keras lists these only through private names.
    layers = [layer for layer in model._flatten_layers() if not layer._layers and layer.weights]
    plain_stem = not any(layer.name == "stem_conv2" for layer in layers)
    return [
        (state_key(layer.name, variable.name, code_base, plain_stem), variable)
        for layer in layers
        for variable in layer.weights
    ]


def load_state(model: keras.Model, state: Mapping[str, ArrayLike], code_base: str) -> None:
    """Copies a PyTorch state dict of the same architecture into a model.

    Args:
        model: an `EncNet`.
        state: maps names to arrays; each is used exactly once, except for `names.IGNORED`.
        code_base: `"mmsegmentation"` or `"pytorch_encoding"`.

    Raises:
        ValueError: if an array is missing or unexpected, has the wrong shape, or holds anything but
            finite numbers. Nothing is changed then.
    """
    _assign(variable_keys(model, code_base), state, code_base)


def load_backbone_state(backbone: keras.Model, state: Mapping[str, ArrayLike], code_base: str) -> None:
    """Like `load_state`, for a backbone and a state dict without the prefix of a backbone's names."""
    _assign(_without_prefix(variable_keys(backbone, code_base), code_base), state, code_base)


def check_state(
    make: Callable[[], keras.Model], state: Mapping[str, ArrayLike], code_base: str, *, backbone=False
) -> None:
    """Compares the names and shapes of a state dict with those of a model that is not made yet.

    No memory is taken for the model's weights, so shapes may be as large as a damaged file says.

    Args:
        make: makes the model.
        state: see `load_state`.
        code_base: `"mmsegmentation"` or `"pytorch_encoding"`.
        backbone: whether the names lack the prefix of a backbone's names.

    Raises:
        ValueError: if an array is missing or unexpected, or has the wrong shape.
    """

    def shapes():
        return [(key, tuple(v.shape)) for key, v in variable_keys(make(), code_base)]

    pairs = without_memory(shapes)
    _check_shapes(_without_prefix(pairs, code_base) if backbone else pairs, state, code_base)


def _without_prefix(pairs, code_base):
    prefix = BACKBONE_PREFIX[code_base]
    return [(key.removeprefix(prefix), value) for key, value in pairs]


def _check_shapes(pairs, state, code_base):
    keys = {key for key, _ in pairs}
    wrong = {
        "Missing": [f"{k} {pytorch_shape(k, shape)}" for k, shape in pairs if k not in state],
        "Unexpected": [
            f"{key} {tuple(np.shape(value))}"
            for key, value in state.items()
            if key not in keys and not re.fullmatch(IGNORED, key)
        ],
        "Wrong shape": [
            f"{k} {tuple(np.shape(state[k]))} where the model has {pytorch_shape(k, shape)}"
            for k, shape in pairs
            if k in state and tuple(np.shape(state[k])) != pytorch_shape(k, shape)
        ],
    }
    if any(wrong.values()):
        found = " ".join(f"{what}: {_listed(sorted(k))}." for what, k in wrong.items() if k)
        raise ValueError(f"The weights must be those of the model ({code_base} names). {found}")


def _listed(names):
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(name[:200] for name in names[:MAX_LISTED]) + more


def _assign(pairs, state, code_base):
    _check_shapes([(key, tuple(v.shape)) for key, v in pairs], state, code_base)
    # Read twice, so that nothing is changed if the last one is invalid.
    for key, _ in pairs:
        _check_numbers(key, np.asarray(state[key]))
    for key, variable in pairs:
        variable.assign(_to_keras_layout(key, np.asarray(state[key])))


def _check_numbers(key, value):
    if value.dtype.kind not in "fiub":
        raise ValueError(f"{key} must hold real numbers. Received: {value.dtype}")
    if not np.isfinite(value).all():
        raise ValueError(
            f"{key} must hold finite numbers. Received: NaN or infinity. The file is damaged, or the "
            "training diverged."
        )


def _to_keras_layout(key, value):
    if value.ndim == 4:  # (out, in, h, w) -> (h, w, in, out)
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2 and not key.endswith("codewords"):  # (out, in) -> (in, out)
        return value.T
    return value


def pytorch_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of the entry `key`, given its shape in Keras."""
    shape = tuple(shape)
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])
    if len(shape) == 2 and not key.endswith("codewords"):
        return shape[::-1]
    return shape
