"""What the metadata of an mmsegmentation checkpoint says about its model."""

import ast

from keras_encnet.models.resnet import DILATIONS, STRIDES


def model_settings(meta):
    """The arguments of `EncNet` that a checkpoint's metadata tells, of those it does tell.

    Reads the class names and colours of either generation (`CLASSES`, `PALETTE`; `dataset_meta`) and
    the text of the run's config, which is Python: it is parsed, never run.

    Args:
        meta: `Checkpoint.meta`.

    Raises:
        ValueError: if the backbone has options that `resnet` lacks.

    Returns:
        A dict with some of `labels`, `palette`, `align_corners`, `output_stride`, `mean`, `std`,
        `evaluation`, `ignore_index`, `dropout`, and of two that are no arguments: `threshold` (of a
        sigmoid) and `bgr` (whether the network takes blue first).

    >>> text = "model = dict(decode_head=dict(type='EncHead', align_corners=True))"
    >>> model_settings({"CLASSES": ("sky", "road"), "cfg": text})
    {'labels': ['sky', 'road'], 'align_corners': True}
    """
    data_set = {**meta, **_mapping(meta.get("dataset_meta"))}
    found = {
        "labels": _names(data_set.get("classes", data_set.get("CLASSES"))),
        "palette": _colours(data_set.get("palette", data_set.get("PALETTE"))),
    }
    config = read_config(meta.get("cfg") or meta.get("config") or "")
    model = _mapping(config.get("model"))
    head = _mapping(model.get("decode_head"))
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


def read_config(text):
    """The assignments of a config's text whose values are plain, as a dict; what is not is `None`.

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
            found[statement.targets[0].id] = _plain(statement.value)
    return found


def _plain(node):
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [_plain(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_plain(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            return dict(zip(map(_plain, keys), map(_plain, values), strict=True))
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=entries):
            return {entry.arg: _plain(entry.value) for entry in entries}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    return None


def _evaluation(config, model):
    rule = {}
    size = _resize(config.get("test_pipeline"))
    if size:
        rule["resize"] = size
    # The first releases had it beside the model.
    test = _mapping(model.get("test_cfg") or config.get("test_cfg"))
    if test.get("mode") == "slide":
        rule["window"], rule["stride"] = test.get("crop_size"), test.get("stride")
    return {name: list(value) for name, value in rule.items() if value} or None


def _resize(pipeline):
    """(long, short) of a test pipeline that keeps the aspect, of either generation."""
    resize = _step(pipeline, "Resize") or {}
    # In 0.x the size stands with the step around it.
    outer = _step(pipeline, "MultiScaleFlipAug") or {}
    size = outer.get("img_scale") or (resize.get("keep_ratio") and resize.get("scale"))
    return sorted(size, reverse=True) if _is_pair(size) else None


def _normalization(config, model):
    """Mean, standard deviation and order of channels, where the config has them."""
    pixels = model.get("data_preprocessor") or config.get("data_preprocessor")
    if isinstance(pixels, dict):
        # In 1.x the model does it, by default not at all and with blue first, as images are read.
        bgr = not (pixels.get("bgr_to_rgb") or pixels.get("rgb_to_bgr"))
        mean, std = pixels.get("mean"), pixels.get("std")
        if mean is None:
            mean, std = [0, 0, 0], [1, 1, 1]
    else:
        # In 0.x a step of the pipeline does.
        pixels = config.get("img_norm_cfg") or _step(config.get("test_pipeline"), "Normalize")
        if not isinstance(pixels, dict):
            return {}
        bgr, mean, std = not pixels.get("to_rgb", True), pixels.get("mean"), pixels.get("std")
    return {"mean": mean, "std": std, "bgr": bgr or None}


def _step(pipeline, kind):
    """The first step of a type in a pipeline, steps within steps included."""
    for step in pipeline if isinstance(pipeline, (list, tuple)) else ():
        step = _mapping(step)
        found = step if step.get("type") == kind else _step(step.get("transforms"), kind)
        if found:
            return found
    return None


def _output_stride(backbone):
    """By the options of a backbone that no shape shows; mmsegmentation's defaults where it has none."""
    if not isinstance(backbone, dict):
        return None
    strides = tuple(backbone.get("strides") or (1, 2, 2, 2))
    dilations = tuple(backbone.get("dilations") or (1, 1, 1, 1))
    contracted = backbone.get("contract_dilation", False) or max(dilations) == 1
    other = [name for name in ("multi_grid", "dcn", "plugins") if backbone.get(name)]
    if backbone.get("style", "pytorch") != "pytorch":
        other.append("style")
    stride = next((n for n in STRIDES if (STRIDES[n], DILATIONS[n]) == (strides, dilations)), None)
    if stride is None or not contracted or other:
        raise ValueError(
            f"Its config has a backbone with strides={strides}, dilations={dilations}, "
            f"contract_dilation={bool(backbone.get('contract_dilation'))}"
            f"{''.join(f', {name}={backbone[name]!r}' for name in other)}; known are "
            f"{', '.join(f'{STRIDES[n]} with {DILATIONS[n]}' for n in STRIDES)}, contracted."
        )
    return stride


def _is_pair(value):
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int for n in value)


def _mapping(value):
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
    whole = colours and all(len(c) == 3 and all(0 <= n <= 255 for n in c) for c in colours)
    return colours if whole else None
