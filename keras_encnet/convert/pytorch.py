"""From a PyTorch checkpoint to a model."""

import warnings

import numpy as np

from keras_encnet.convert.architecture import (
    backbone_arguments,
    backbone_code_base_of,
    backbone_part,
    code_base_of,
    encnet_arguments,
)
from keras_encnet.convert.names import CODE_BASES, state_key
from keras_encnet.convert.settings import model_settings
from keras_encnet.convert.state import load_backbone_state, load_state
from keras_encnet.layers.policies import skip_kernel_init
from keras_encnet.models.resnet import backbone_by_name

# mmsegmentation's, where a model has one output for two classes.
SIGMOID_THRESHOLD = 0.3


def encnet_from_checkpoint(
    cls, checkpoint, *, align_corners=None, labels=None, palette=None, evaluation=None, release=None
):
    """What `EncNet.from_pytorch` documents.

    Args:
        cls: `EncNet`, or a class derived from it.
        checkpoint: from `read_checkpoint`.
        release: arguments of `EncNet` that a release is known to have and its file may not tell:
            `num_classes`, and any of `labels`, `palette`, `align_corners`, `evaluation`.
    """
    state, shapes, path = dict(checkpoint.state), checkpoint.shapes, checkpoint.path
    code_base = code_base_of(shapes)
    if code_base is None:
        raise ValueError(_not_encnet(path, shapes))
    try:
        arguments = encnet_arguments(shapes, code_base)
        settings = _settings(checkpoint, code_base, arguments["num_classes"], release)
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
    threshold = settings.pop("threshold", SIGMOID_THRESHOLD)
    bgr = settings.pop("bgr", False)
    if "align_corners" not in settings:
        warnings.warn(
            f"{path} does not say whether its resizing aligns corners; taken as `align_corners=False`, "
            "mmsegmentation's default. Give `align_corners=True` if the model was trained so.",
            stacklevel=3,
        )
    if arguments["num_classes"] > settings.get("ignore_index", 255):
        settings["ignore_index"] = 65535

    for layer in ("pixel_logits", "aux_logits"):
        kernel, bias = (state_key(layer, variable, code_base) for variable in ("kernel", "bias"))
        if shapes.get(kernel, (0,))[0] == 1 and bias in state:
            _two_outputs(state, kernel, bias, threshold)
    if bgr:
        settings |= {name: settings[name][::-1] for name in ("mean", "std") if name in settings}
        stems = (state_key("stem_conv1", "kernel", code_base, plain) for plain in (False, True))
        stem = next(key for key in stems if key in state)
        state[stem] = np.asarray(state[stem])[:, ::-1]

    with skip_kernel_init():
        model = cls(**arguments, **settings)
    try:
        load_state(model, state, code_base)
    except ValueError as error:
        raise ValueError(f"{path} cannot be converted. {error}") from error
    return model


def backbone_from_checkpoint(checkpoint):
    """A ResNet with the weights of a checkpoint of one alone (ImageNet's, say), or of an EncNet's.

    Args:
        checkpoint: of mmsegmentation, PyTorch-Encoding or timm, from `read_checkpoint`.

    Returns:
        A `keras.Model` from normalized RGB to four feature maps.

    Raises:
        ValueError: if it is not a ResNet's, or not one that this package has.
    """
    state, code_base = _backbone_state(checkpoint)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    try:
        name, width = backbone_arguments(shapes, code_base)
        with skip_kernel_init():
            backbone = backbone_by_name(name, width=width)
        load_backbone_state(backbone, state, code_base)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path} cannot be converted. {error}") from error
    return backbone


def load_backbone(backbone, checkpoint):
    """Loads such a checkpoint into a backbone of the same architecture."""
    state, code_base = _backbone_state(checkpoint)
    try:
        load_backbone_state(backbone, state, code_base)
    except ValueError as error:
        raise ValueError(
            f"{checkpoint.path} does not fit the backbone {backbone.name!r}. {error}"
        ) from error


def is_backbone(checkpoint):
    """Whether a checkpoint holds a backbone alone."""
    keys = checkpoint.state
    return code_base_of(keys) is None and backbone_code_base_of(keys) is not None


def _backbone_state(checkpoint):
    state = checkpoint.state
    code_base = code_base_of(state)
    if code_base:
        return backbone_part(state, code_base), code_base
    code_base = backbone_code_base_of(state)
    if code_base is None:
        raise ValueError(
            f"{checkpoint.path} holds no ResNet as mmsegmentation, PyTorch-Encoding or timm name it: "
            f"its {len(state)} entries begin with {', '.join(list(state)[:3])}."
        )
    return state, code_base


def _settings(checkpoint, code_base, num_classes, release):
    """What the file says about itself, otherwise what is known of the release."""
    path, settings = checkpoint.path, {}
    if release is not None and release["num_classes"] == num_classes:
        settings = {name: value for name, value in release.items() if name != "num_classes"}
    elif code_base == "pytorch_encoding":
        settings = {"align_corners": True}
    told = model_settings(checkpoint.meta)
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


def _two_outputs(state, kernel, bias, threshold):
    """A sigmoid over `threshold` is the larger one of two logits: 0 and x − log(t / (1 − t))."""
    state[bias] = np.asarray(state[bias]) - np.log(threshold / (1 - threshold))
    for key in (kernel, bias):
        state[key] = np.concatenate([np.zeros_like(state[key]), state[key]])


def _not_encnet(path, shapes):
    if backbone_code_base_of(shapes):
        return (
            f"{path} holds a backbone alone. Start from it with "
            f"`EncNet(backbone, num_classes, backbone_weights={str(path)!r})`."
        )
    return (
        f"{path} holds no EncNet of mmsegmentation or PyTorch-Encoding: its {len(shapes)} entries "
        f"begin with {', '.join(list(shapes)[:3])}; an EncNet has "
        f"{' or '.join(state_key('encoding', 'codewords', name) for name in CODE_BASES)}."
    )
