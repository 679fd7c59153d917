"""From a PyTorch checkpoint to a model."""

import pathlib
import warnings

import numpy as np

from keras_encnet.convert.architecture import (
    LANDMARKS,
    backbone_arguments,
    backbone_code_base_of,
    code_base_of,
    encnet_arguments,
)
from keras_encnet.convert.checkpoint import read_checkpoint
from keras_encnet.convert.names import BACKBONE
from keras_encnet.convert.settings import model_settings
from keras_encnet.convert.state import load_backbone_state, load_state
from keras_encnet.layers.conv_norm import kernels_not_drawn
from keras_encnet.models.resnet import backbone_by_name
from keras_encnet.presets.table import architecture, list_presets

# mmsegmentation's, where a model has one output for two classes.
SIGMOID_THRESHOLD = 0.3


def encnet_from_pytorch(
    cls, path, *, align_corners=None, labels=None, palette=None, evaluation=None, preset=None
):
    """What `EncNet.from_pytorch` documents; `preset` is the release's record, where it is known."""
    path = pathlib.Path(path)
    checkpoint = read_checkpoint(path)
    state = checkpoint.state
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    code_base = code_base_of(shapes)
    if code_base is None:
        raise ValueError(_not_encnet(path, shapes))
    marks = LANDMARKS[code_base]
    try:
        arguments = encnet_arguments(shapes, code_base)
        settings = _settings(path, checkpoint.meta, code_base, arguments["num_classes"], preset)
    except KeyError as error:
        raise ValueError(f"{path} cannot be converted. Missing: {error.args[0]}.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be converted. {error}") from error

    given = {
        "align_corners": align_corners,
        "labels": labels,
        "palette": palette,
        "evaluation": evaluation,
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    threshold = settings.pop("threshold", None) or SIGMOID_THRESHOLD
    bgr = settings.pop("bgr", False)
    if "align_corners" not in settings:
        warnings.warn(
            f"{path} does not say whether its resizing aligns corners; taken as `align_corners=False`, "
            "mmsegmentation's default. Give `align_corners=True` if the model was trained so.",
            stacklevel=3,
        )
    if arguments["num_classes"] > settings.get("ignore_index", 255):
        settings["ignore_index"] = 65535

    state = dict(state)
    for classifier in (marks["classifier"], marks["aux"]):
        prefix = classifier.removesuffix("weight")
        if shapes.get(classifier, (0,))[0] == 1 and prefix + "bias" in state:
            _two_outputs(state, prefix, threshold)
    if bgr:
        settings |= {name: settings[name][::-1] for name in ("mean", "std") if name in settings}
        stem = next(key for key in state if _is_stem(key, BACKBONE[code_base]))
        state[stem] = np.asarray(state[stem])[:, ::-1]

    with kernels_not_drawn():
        model = cls(**arguments, **settings)
    try:
        load_state(model, state, code_base)
    except ValueError as error:
        raise ValueError(f"{path} cannot be converted. {error}") from error
    return model


def backbone_from_pytorch(path):
    """A ResNet with the weights of a checkpoint of one alone (ImageNet's, say), or of an EncNet's.

    Args:
        path: `.pth` of mmsegmentation or PyTorch-Encoding, `.zip` around one, or timm's `.safetensors`.

    Returns:
        A `keras.Model` from normalized RGB to four feature maps.

    Raises:
        ValueError: if it is not a ResNet's, or not one that this package has.
    """
    state, code_base = _backbone_state(path)
    try:
        name, width = backbone_arguments(state_shapes(state), code_base, prefix="")
        with kernels_not_drawn():
            backbone = backbone_by_name(name, width=width)
        load_backbone_state(backbone, state, code_base)
    except ValueError as error:
        raise ValueError(f"{path} cannot be converted. {error}") from error
    return backbone


def load_backbone(backbone, path):
    """Loads such a checkpoint into a backbone of the same architecture."""
    state, code_base = _backbone_state(path)
    try:
        load_backbone_state(backbone, state, code_base)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the backbone {backbone.name!r}. {error}") from error


def is_backbone(path):
    """Whether a checkpoint holds a backbone alone."""
    keys = read_checkpoint(path).state
    return code_base_of(keys) is None and backbone_code_base_of(keys) is not None


def state_shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


def _backbone_state(path):
    state = read_checkpoint(path).state
    code_base = code_base_of(state)
    if code_base:
        prefix = BACKBONE[code_base]
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, code_base
    code_base = backbone_code_base_of(state)
    if code_base is None:
        raise ValueError(
            f"{path} holds no ResNet as mmsegmentation, PyTorch-Encoding or timm name it: "
            f"its {len(state)} entries begin with {', '.join(list(state)[:3])}."
        )
    return state, code_base


def _settings(path, meta, code_base, num_classes, preset):
    """From the file where it tells, else from the table of releases."""
    if preset is None:
        preset = next((p for p in list_presets() if _stem(p.release["url"]) == path.stem), None)
    settings = {}
    if preset is not None and preset.num_classes == num_classes:
        settings = {
            name: value
            for name, value in architecture(preset).items()
            if name in ("labels", "palette", "align_corners", "evaluation")
        }
    elif code_base == "pytorch_encoding":
        settings = {"align_corners": True}
    told = model_settings(meta)
    for name in ("labels", "palette"):
        if name in told and len(told[name]) != num_classes:
            warnings.warn(
                f"{path}: its metadata has {len(told[name])} {name} for {num_classes} classes: left "
                f"out. Give `{name}=`.",
                stacklevel=4,
            )
            del told[name]
    if told.get("ignore_index", num_classes) < num_classes:
        ignored = told.pop("ignore_index")
        if ignored >= 0:
            warnings.warn(
                f"{path}: it was trained to ignore the class {ignored}. Here such a value is outside "
                "the classes: to train it further, rename it in the masks, "
                f"`label_map={{{ignored}: 255}}`.",
                stacklevel=4,
            )
    return settings | told


def _two_outputs(state, prefix, threshold):
    """A sigmoid over `threshold` is the larger one of two logits: 0 and x − log(t / (1 − t))."""
    weight, bias = np.asarray(state[prefix + "weight"]), np.asarray(state[prefix + "bias"])
    bias = bias - np.log(threshold / (1 - threshold)).astype(bias.dtype)
    state[prefix + "weight"] = np.concatenate([np.zeros_like(weight), weight])
    state[prefix + "bias"] = np.concatenate([np.zeros_like(bias), bias])


def _stem(url):
    return pathlib.PurePosixPath(url).stem


def _is_stem(key, prefix):
    return key in (f"{prefix}stem.0.weight", f"{prefix}conv1.0.weight", f"{prefix}conv1.weight")


def _not_encnet(path, shapes):
    if backbone_code_base_of(shapes):
        return (
            f"{path} holds a backbone alone. Start from it with "
            f"`EncNet(backbone, num_classes, backbone_weights={str(path)!r})`."
        )
    return (
        f"{path} holds no EncNet of mmsegmentation or PyTorch-Encoding: its {len(shapes)} entries "
        f"begin with {', '.join(list(shapes)[:3])}; an EncNet has "
        f"{LANDMARKS['mmsegmentation']['codewords']} or {LANDMARKS['pytorch_encoding']['codewords']}."
    )
