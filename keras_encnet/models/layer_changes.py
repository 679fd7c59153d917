"""What was changed in a model's layers after it was made, as data for its config.

`EncNet` is rebuilt from its constructor's arguments. They know nothing of a frozen backbone, another
dropout rate, a regularizer or quantized kernels. So the model's config also holds the entries of the
layers' own configs that have changed since the layers were made.
"""

import math

import keras

# A LoRA of more numbers must not be larger than the kernel that it adapts.
LARGEST_LORA = 1_000_000


def layers_by_path(network):
    """The layers of a model, and those that they hold: `{"resnet18/stem_conv1": layer}`."""
    found = {}

    def add(layers, above):
        for layer in layers:
            path = name = f"{above}{layer.name}"
            number = 1
            while path in found:
                number += 1
                path = f"{name}#{number}"
            found[path] = layer
            add(_held(layer), f"{path}/")

    add(network.layers, "")
    return found


def settings(layers, left_out=None):
    """What `changes` compares later settings with, by path.

    `left_out` is a layer whose own and held layers are left out: they are saved in another way."""
    theirs = [] if left_out is None else left_out._flatten_layers()
    return {
        path: _settings(layer)
        for path, layer in layers.items()
        if not any(layer is other for other in theirs)
    }


def changes(network, layers, made):
    """The entries of the layers' configs that have changed, and which layers are frozen.

    Args:
        network: the `keras.Model` that is above all of the layers.
        layers: the layers by path.
        made: the `settings` of the layers whose changes count. Of the others it only matters whether
            they are frozen.

    Returns:
        `{path: {name: value}}`, for JSON. A path is the name of a layer after those of the layers that
        hold it, `"resnet18/stem_conv1"` for instance. `"trainable"` is given where it differs from that
        of the layer above.
    """
    found = {}
    for path, layer in layers.items():
        above = layers.get(path.rpartition("/")[0], network)
        changed = {}
        if path in made:
            now, before = _settings(layer), made[path]
            names = [name for name in now if not _same(now[name], before.get(name))]
            config = layer.get_config() if names else {}
            changed = {name: config[name] for name in names if name in config}
        if layer.trainable != above.trainable:
            changed["trainable"] = layer.trainable
        if changed:
            found[path] = changed
    return found


def apply_changes(network, changes):
    """Changes layers as `changes` says, in its order: from a layer to those that it holds.

    Raises:
        ValueError: if there is no such layer, or its config has no such entry.
    """
    layers = layers_by_path(network)
    for path, values in changes.items():
        if path not in layers:
            raise ValueError(f"`layers` must name layers of the model. Received: {path!r}")
        layer, values = layers[path], dict(values)
        if "trainable" in values:
            layer.trainable = values.pop("trainable")
        unknown = set(values) - set(_settings(layer))
        if unknown:
            raise ValueError(
                f"`layers` must hold entries of the layers' configs. Received: {sorted(unknown)} for "
                f"{path!r}"
            )
        try:
            _change(layer, values)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Values in `layers` must be valid for the layer's config. Received: {values} for "
                f"{path!r}: {error}"
            ) from error


def _change(layer, values):
    # A layer that is made anew knows what the values of a config mean.
    lora = {name: values.pop(name) for name in ("lora_rank", "lora_alpha") if name in values}
    wanted = type(layer).from_config({**layer.get_config(), **values}) if values else layer
    policy = wanted.dtype_policy
    if policy != layer.dtype_policy and policy.quantization_mode:
        config = getattr(wanted, "quantization_config", None)
        layer.quantize(policy.quantization_mode, config=config)
    else:
        layer.dtype_policy = policy
    if lora.get("lora_rank"):
        rows, columns = math.prod(layer.kernel.shape[:-1]), layer.kernel.shape[-1]
        if lora["lora_rank"] * (rows + columns) > max(rows * columns, LARGEST_LORA):
            raise ValueError("the rank is too large for the kernel")
        layer.enable_lora(lora["lora_rank"], lora_alpha=lora.get("lora_alpha"))
    for name in set(values) - {"dtype", "quantization_config"}:
        value = getattr(wanted, name)
        setattr(layer, name, value)
        # A variable that exists does not ask its layer again.
        variable, _, kind = name.rpartition("_")
        if kind in ("regularizer", "constraint") and hasattr(layer, variable):
            setattr(getattr(layer, variable), kind, value)


def _settings(layer):
    """A layer's public attributes, except for its weights, and its dtype policy; none of a layer that
    holds others, which have their own."""
    if _held(layer):
        return {}
    public = {name: value for name, value in vars(layer).items() if not name.startswith("_")}
    settings = {name: v for name, v in public.items() if not isinstance(v, keras.Variable)}
    return {**settings, "dtype": layer.dtype_policy}


def _same(a, b):
    plain = (bool, int, float, str, tuple, keras.DTypePolicy)
    return a is b or (isinstance(a, plain) and a == b)


def _held(layer):
    return layer._flatten_layers(include_self=False, recursive=False)
