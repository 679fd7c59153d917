import re

import numpy as np

from keras_encnet.convert.names import BACKBONE, PASSENGERS, state_key


def variable_keys(model, code_base):
    """The state-dict key of each of a model's variables.

    Args:
        model: an `EncNet`, or a backbone of one.
        code_base: `"mmsegmentation"` or `"pytorch_encoding"`.

    Returns:
        A list of (key, Keras variable), trainable or not, each once.

    >>> model = keras_encnet.EncNet("resnet18", 2, width=0.125, head_channels=8)
    >>> variables = dict(variable_keys(model, "mmsegmentation"))
    >>> tuple(variables["decode_head.conv_seg.weight"].shape)
    (1, 1, 8, 2)
    """
    # Every weight belongs to a layer without layers of its own.
    layers = [layer for layer in model._flatten_layers() if not layer._layers and layer.weights]
    plain_stem = not any(layer.name == "stem_conv2" for layer in layers)
    return [
        (state_key(layer.name, variable.name, code_base, plain_stem), variable)
        for layer in layers
        for variable in layer.weights
    ]


def load_state(model, state, code_base):
    """Copies a PyTorch state dict of the same architecture into a model.

    Args:
        model: an `EncNet`.
        state: maps names to arrays; each is used exactly once, but for `names.PASSENGERS`.
        code_base: whose names they are: `"mmsegmentation"` or `"pytorch_encoding"`.

    Raises:
        ValueError: if an array is missing, left over or of another shape. Nothing is changed then.
    """
    _assign(variable_keys(model, code_base), state, f"{model.name}, {code_base} names")


def load_backbone_state(backbone, state, code_base):
    """The same for a backbone alone, whose names have no prefix."""
    prefix = BACKBONE[code_base]
    pairs = [(key.removeprefix(prefix), v) for key, v in variable_keys(backbone, code_base)]
    _assign(pairs, state, f"{backbone.name}, {code_base} names")


def _assign(pairs, state, whose):
    keys = {key for key, _ in pairs}
    wrong = {
        "Missing": [f"{k} {pytorch_shape(k, v.shape)}" for k, v in pairs if k not in state],
        "Left over": [
            f"{key} {tuple(np.shape(value))}"
            for key, value in state.items()
            if key not in keys and not re.fullmatch(PASSENGERS, key)
        ],
        "Of another shape": [
            f"{k} {tuple(np.shape(state[k]))} where the model has {pytorch_shape(k, v.shape)}"
            for k, v in pairs
            if k in state and tuple(np.shape(state[k])) != pytorch_shape(k, v.shape)
        ],
    }
    if any(wrong.values()):
        found = "; ".join(
            f"{what}: {', '.join(sorted(which))}" for what, which in wrong.items() if which
        )
        raise ValueError(f"The weights are not those of this model ({whose}). {found}.")
    for key, variable in pairs:
        variable.assign(_to_keras_layout(key, np.asarray(state[key])))


def _to_keras_layout(key, value):
    if value.ndim == 4:  # (out, in, h, w) -> (h, w, in, out)
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2 and not key.endswith("codewords"):  # (out, in) -> (in, out)
        return value.T
    return value


def pytorch_shape(key, shape):
    """The PyTorch shape of the entry `key` whose Keras shape is `shape`."""
    shape = tuple(shape)
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])
    if len(shape) == 2 and not key.endswith("codewords"):
        return shape[::-1]
    return shape
