"""The settings of a model in the metadata of an mmsegmentation checkpoint."""

import ast
from typing import Any

from keras_encnet.models.resnet import DILATIONS, STRIDES


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
        ValueError: if the backbone has options that `resnet` lacks.

    >>> text = "model = dict(decode_head=dict(type='EncHead', align_corners=True))"
    >>> model_settings({"CLASSES": ("sky", "road"), "cfg": text})
    {'labels': ['sky', 'road'], 'align_corners': True}
    """
    dataset = {**meta, **_dict_or_empty(meta.get("dataset_meta"))}
    found = {
        "labels": _names(dataset.get("classes", dataset.get("CLASSES"))),
        "palette": _colours(dataset.get("palette", dataset.get("PALETTE"))),
    }
    config = read_config(meta.get("cfg") or meta.get("config") or "")
    model = _dict_or_empty(config.get("model"))
    head = _dict_or_empty(model.get("decode_head"))
    found |= {
        **_normalization(config, model),
        "align_corners": head.get("align_corners"),
        "output_stride": _output_stride(model.get("backbone")),
        "ignore_index": head.get("ignore_index"),
        "dropout": head.get("dropout_ratio"),
        "evaluation": _evaluation(config, model),
        "threshold": head.get("threshold"),
    }
    return {name: value for name, value in found.items() if value is not None}


def read_config(text: str) -> dict[str, Any]:
    """The variables that a config's text assigns, where `None` replaces whatever is not a literal.

    Empty if `text` is not a string or not valid Python.

    >>> read_config("a = dict(b=[1, -2.5], c=('x', f()))")
    {'a': {'b': [1, -2.5], 'c': ('x', None)}}
    """
    if not isinstance(text, str):
        return {}
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
            return dict(zip(map(_literal, keys), map(_literal, values), strict=True))
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
        rule["window"], rule["stride"] = test.get("crop_size"), test.get("stride")
    return {name: list(value) for name, value in rule.items() if value} or None


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
        mean, std = options.get("mean"), options.get("std")
        if mean is None:
            mean, std = [0, 0, 0], [1, 1, 1]
    else:
        # In 0.x a step of the pipeline normalizes.
        options = config.get("img_norm_cfg") or _step(config.get("test_pipeline"), "Normalize")
        if not isinstance(options, dict):
            return {}
        bgr, mean, std = not options.get("to_rgb", True), options.get("mean"), options.get("std")
    return {"mean": mean, "std": std, "bgr": bgr or None}


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
    strides = tuple(backbone.get("strides") or (1, 2, 2, 2))
    dilations = tuple(backbone.get("dilations") or (1, 1, 1, 1))
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


def _is_pair(value):
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int for n in value)


def _dict_or_empty(value):
    return value if isinstance(value, dict) else {}


def _names(value):
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return list(value) or None
    return None


def _colours(value):
    try:
        colours = [[int(channel) for channel in colour] for colour in value]
    except (TypeError, ValueError):
        return None
    valid = colours and all(len(c) == 3 and all(0 <= n <= 255 for n in c) for c in colours)
    return colours if valid else None
