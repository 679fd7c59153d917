import re

import numpy as np

from keras_encnet.convert.names import CODE_BASES, ENTRIES, PASSENGERS


def variable_keys(model, code_base):
    """The state-dict key of each of a model's variables.

    Args:
        model: an `EncNet`.
        code_base: `"mmsegmentation"` or `"pytorch_encoding"`.

    Returns:
        A list of (key, Keras variable), trainable or not, each once.

    >>> model = keras_encnet.EncNet("resnet18", 2, width=0.125, head_channels=8)
    >>> variables = dict(variable_keys(model, "mmsegmentation"))
    >>> tuple(variables["decode_head.conv_seg.weight"].shape)
    (1, 1, 8, 2)
    """
    table = CODE_BASES[code_base]
    pairs = []
    for layer in model._flatten_layers():
        # Every weight belongs to a layer without layers of its own.
        if not layer._layers and layer.weights:
            parts = _parts(layer.name, table, code_base)
            for variable in layer.weights:
                part, entry = ENTRIES[variable.name]
                pairs.append((f"{parts[part]}.{entry}", variable))
    return pairs


def load_state(model, state, code_base):
    """Copies a PyTorch state dict of the same architecture into a model.

    Args:
        model: an `EncNet`.
        state: maps names to arrays; each must be used, but for step counters and an ImageNet
            classifier.
        code_base: whose names they are: `"mmsegmentation"` or `"pytorch_encoding"`.

    Raises:
        ValueError: if an array is missing, left over or of another shape. Nothing is changed then.
    """
    pairs = variable_keys(model, code_base)
    keys = {key for key, _ in pairs}
    missing = sorted(keys - set(state))
    left = sorted(key for key in set(state) - keys if not re.fullmatch(PASSENGERS, key))
    if missing or left:
        raise ValueError(
            f"The weights are not those of this model ({model.name}, {code_base} names). "
            f"Missing: {missing or 'none'}. Left over: {left or 'none'}."
        )
    values = [(variable, key, _to_keras_layout(key, np.asarray(state[key]))) for key, variable in pairs]
    for variable, key, value in values:
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"{key} has shape {np.shape(state[key])}, which gives {value.shape}; the model "
                f"expects {tuple(variable.shape)}."
            )
    for variable, _, value in values:
        variable.assign(value)


def _to_keras_layout(key, value):
    if value.ndim == 4:  # (out, in, h, w) -> (h, w, in, out)
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2 and not key.endswith("codewords"):  # (out, in) -> (in, out)
        return value.T
    return value


def _parts(name, table, code_base):
    for pattern, parts in table.items():
        match = re.fullmatch(pattern, name)
        if match:
            return parts(*map(int, match.groups()))
    raise ValueError(f"Layer {name!r} has no counterpart in {code_base}.")
