"""The settings of a model in the metadata of an mmsegmentation checkpoint."""

import ast
import math
import numbers
from collections.abc import Callable
from typing import Any

from keras_encnet.convert.architecture import MAX_CLASSES
from keras_encnet.data.conventions import is_integer
from keras_encnet.inference.geometry import evaluation_rule
from keras_encnet.models.resnet import DILATIONS, STRIDES

# Configs have 10,000 to 50,000 characters. Parsing takes some hundred bytes for each.
MAX_CONFIG = 2**18
# Longer names are damage.
MAX_NAME = 1000
# Pixels; images are resized and padded to these sizes.
MAX_SIDE = 2**14


def model_settings(meta: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `EncNet` that a checkpoint's metadata contains.

    Reads the class names and colours of mmsegmentation 0.x (`CLASSES`, `PALETTE`) and 1.x
    (`dataset_meta`), and the text of the run's config. The text is Python: it is parsed, never run.

    Args:
        meta: `Checkpoint.meta`.

    Returns:
        A dict with some of `labels`, `palette`, `align_corners`, `output_stride`, `mean`, `std`,
        `evaluation`, `ignore_index`, `dropout`. It may also contain `threshold` (of a sigmoid) and
        `bgr` (whether the network takes BGR), which are not arguments of `EncNet`.

    Raises:
        ValueError: if the backbone has options that `resnet` lacks, a value is invalid, or the config
            is far longer than configs are.

    >>> text = "model = dict(decode_head=dict(type='EncHead', align_corners=True))"
    >>> model_settings({"CLASSES": ("sky", "road"), "cfg": text})
    {'labels': ['sky', 'road'], 'align_corners': True}
    """
    dataset = {**meta, **_dict_or_empty(meta.get("dataset_meta"))}
    found = {
        "labels": _names(dataset.get("classes", dataset.get("CLASSES"))),
        "palette": _colours(dataset.get("palette", dataset.get("PALETTE"))),
    }
    texts = (meta.get("cfg"), meta.get("config"))
    config = read_config(next((text for text in texts if isinstance(text, str) and text), ""))
    model = _dict_or_empty(config.get("model"))
    head = _dict_or_empty(model.get("decode_head"))
    found |= {
        **_normalization(config, model),
        "align_corners": _checked(head, "align_corners", _is_switch, "True or False"),
        "output_stride": _output_stride(model.get("backbone")),
        "ignore_index": _checked(head, "ignore_index", _is_integer, "an integer"),
        "dropout": _checked(
            head,
            "dropout_ratio",
            lambda rate: _is_number(rate) and 0 <= rate < 1,
            "at least 0 and less than 1",
        ),
        "evaluation": _evaluation(config, model),
        "threshold": _checked(
            head, "threshold", lambda t: _is_number(t) and 0 < t < 1, "between 0 and 1"
        ),
    }
    return {name: value for name, value in found.items() if value is not None}


def read_config(text: str) -> dict[str, Any]:
    """The variables that a config's text assigns, where `None` replaces whatever is not a literal.

    Empty if `text` is not a string or not valid Python.

    Raises:
        ValueError: if it is far longer than configs are.

    >>> read_config("a = dict(b=[1, -2.5], c=('x', f()))")
    {'a': {'b': [1, -2.5], 'c': ('x', None)}}
    """
    if not isinstance(text, str):
        return {}
    if len(text) > MAX_CONFIG:
        raise ValueError(
            f"The config in its metadata must have at most {MAX_CONFIG} characters. Received: "
            f"{len(text)} characters"
        )
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = _literal(statement.value)
    return found


def _literal(node):
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            entries = zip(keys, values, strict=True)
            return {k.value: _literal(v) for k, v in entries if isinstance(k, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=entries):
            return {entry.arg: _literal(entry.value) for entry in entries}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    return None


def _evaluation(config, model):
    rule = {}
    size = _resize(config.get("test_pipeline"))
    if size:
        rule["resize"] = size
    # In the first releases, `test_cfg` is not part of the model.
    test = _dict_or_empty(model.get("test_cfg") or config.get("test_cfg"))
    if test.get("mode") == "slide":
        rule["window"] = _checked(test, "crop_size", _is_pair, PAIR)
        rule["stride"] = _checked(test, "stride", _is_pair, PAIR)
    rule = {name: list(value) for name, value in rule.items() if value}
    evaluation_rule(rule)
    return rule or None


def _resize(pipeline):
    """(long side, short side) in pixels, if the test pipeline resizes and keeps the aspect ratio."""
    resize = _step(pipeline, "Resize") or {}
    # In 0.x the size belongs to the step that contains `Resize`.
    outer = _step(pipeline, "MultiScaleFlipAug") or {}
    size = outer.get("img_scale") or (resize.get("keep_ratio") and resize.get("scale"))
    return sorted(size, reverse=True) if _is_pair(size) else None


def _normalization(config, model):
    """Mean, standard deviation and order of channels, if the config has them."""
    options = model.get("data_preprocessor") or config.get("data_preprocessor")
    if isinstance(options, dict):
        # In 1.x the model normalizes. By default it does not, and takes BGR, as images are loaded.
        bgr = not (options.get("bgr_to_rgb") or options.get("rgb_to_bgr"))
        mean, std = _mean_and_std(options)
        if mean is None:
            mean, std = [0, 0, 0], [1, 1, 1]
    else:
        # In 0.x a step of the pipeline normalizes.
        options = config.get("img_norm_cfg") or _step(config.get("test_pipeline"), "Normalize")
        if not isinstance(options, dict):
            return {}
        bgr = not options.get("to_rgb", True)
        mean, std = _mean_and_std(options)
    return {"mean": mean, "std": std, "bgr": bgr or None}


def _mean_and_std(options):
    mean = _checked(options, "mean", _are_channels, "three numbers")
    std = _checked(
        options, "std", lambda std: _are_channels(std) and min(std) > 0, "three positive numbers"
    )
    return mean, std


def _step(pipeline, kind):
    """The first step of a type in a pipeline, including nested steps."""
    for step in pipeline if isinstance(pipeline, (list, tuple)) else ():
        step = _dict_or_empty(step)
        found = step if step.get("type") == kind else _step(step.get("transforms"), kind)
        if found:
            return found
    return None


def _output_stride(backbone):
    """From a backbone's options, which do not show in its shapes; mmsegmentation's defaults apply."""
    if not isinstance(backbone, dict):
        return None
    four = "four positive integers"
    strides = tuple(_checked(backbone, "strides", _are_steps, four) or (1, 2, 2, 2))
    dilations = tuple(_checked(backbone, "dilations", _are_steps, four) or (1, 1, 1, 1))
    contracted = backbone.get("contract_dilation", False) or max(dilations) == 1
    unsupported = [name for name in ("multi_grid", "dcn", "plugins") if backbone.get(name)]
    if backbone.get("style", "pytorch") != "pytorch":
        unsupported.append("style")
    stride = next((n for n in STRIDES if (STRIDES[n], DILATIONS[n]) == (strides, dilations)), None)
    if stride is None or not contracted or unsupported:
        known = (f"strides={STRIDES[n]} with dilations={DILATIONS[n]}" for n in STRIDES)
        raise ValueError(
            f"The backbone in its config must have {' or '.join(known)}, contract_dilation=True if it "
            f"dilates, and no other options. Received: strides={strides}, dilations={dilations}, "
            f"contract_dilation={bool(backbone.get('contract_dilation'))}"
            f"{''.join(f', {name}={backbone[name]!r}' for name in unsupported)}"
        )
    return stride


PAIR = f"a pair of integers from 1 to {MAX_SIDE}"


def _checked(options: dict, name: str, is_valid: Callable, what: str) -> Any:
    """An option of a config, or `None` if it is missing or was not a literal.

    Raises:
        ValueError: if it has another value than `what`.
    """
    value = options.get(name)
    if value is not None and not is_valid(value):
        received = repr(value)
        received = received if len(received) <= 80 else received[:77] + "..."
        raise ValueError(f"`{name}` in its config must be {what}. Received: {received}")
    return value


def _is_switch(value):
    return isinstance(value, bool)


def _is_integer(value):
    return is_integer(value) and abs(value) < 2**31


def _is_number(value):
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _are(value, count, is_valid):
    return isinstance(value, (list, tuple)) and len(value) == count and all(map(is_valid, value))


def _are_channels(value):
    return _are(value, 3, _is_number)


def _are_steps(value):
    return _are(value, 4, lambda n: _is_integer(n) and n > 0)


def _is_pair(value):
    return _are(value, 2, lambda n: _is_integer(n) and 1 <= n <= MAX_SIDE)


def _dict_or_empty(value):
    return value if isinstance(value, dict) else {}


def _names(value):
    if isinstance(value, (list, tuple)) and len(value) <= MAX_CLASSES:
        names = [name for name in value if isinstance(name, str) and len(name) <= MAX_NAME]
        return names if names and len(names) == len(value) else None
    return None


def _colours(value):
    # The lengths are checked first: whatever a damaged file repeats is a long list here.
    try:
        if len(value) > MAX_CLASSES or not all(len(colour) == 3 for colour in value):
            return None
        channels = [channel for colour in value for channel in colour]
    except TypeError:
        return None
    if not channels or not all(isinstance(n, numbers.Integral) and 0 <= n <= 255 for n in channels):
        return None
    return [[int(channel) for channel in colour] for colour in value]
