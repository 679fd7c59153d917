"""From a PyTorch checkpoint to a model."""

import contextlib
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_encnet.convert.architecture import (
    backbone_arguments,
    backbone_code_base_of,
    backbone_part,
    code_base_of,
    encnet_arguments,
)
from keras_encnet.convert.names import CODE_BASES, state_key
from keras_encnet.convert.reading import Checkpoint
from keras_encnet.convert.reading.errors import quoted
from keras_encnet.convert.settings import model_settings
from keras_encnet.convert.state import check_state, load_backbone_state, load_state
from keras_encnet.data.conventions import IGNORE_INDEX, ignore_index_for
from keras_encnet.layers.policies import skip_kernel_init
from keras_encnet.models.resnet import backbone_by_name

# mmsegmentation's default for models with one output for two classes.
SIGMOID_THRESHOLD = 0.3


def encnet_from_checkpoint(
    cls: type[keras.Model],
    checkpoint: Checkpoint,
    *,
    align_corners: bool | None = None,
    labels: Sequence[str] | None = None,
    palette=None,
    evaluation: dict | None = None,
    release: dict[str, Any] | None = None,
) -> keras.Model:
    """Implements `EncNet.from_pytorch`, which documents the other arguments.

    Args:
        cls: `EncNet` or a subclass.
        checkpoint: from `read_checkpoint`.
        release: known arguments of a published model, used where the file does not contain them:
            `num_classes`, and any of `labels`, `palette`, `align_corners`, `evaluation`. Ignored if
            the file has another number of classes.

    Raises:
        ValueError: if the checkpoint is not an EncNet's, weights are missing, unexpected or not
            finite, or an argument does not fit the model.
    """
    state, shapes, path = dict(checkpoint.state), checkpoint.shapes, checkpoint.path
    code_base = code_base_of(shapes)
    if code_base is None:
        raise ValueError(_not_encnet(path, shapes))
    with _named(path):
        try:
            arguments = encnet_arguments(shapes, code_base)
        except KeyError as error:
            raise ValueError(f"Missing: {error.args[0]}.") from error
        settings = _settings(checkpoint, code_base, arguments["num_classes"], release)

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
            f"{path} does not say whether resizing aligns corners. Using `align_corners=False`, "
            "mmsegmentation's default. Pass `align_corners=True` if the model was trained that way.",
            stacklevel=3,
        )
    settings["ignore_index"] = ignore_index_for(
        arguments["num_classes"], settings.get("ignore_index", IGNORE_INDEX)
    )

    if bgr:
        settings |= {name: settings[name][::-1] for name in ("mean", "std") if name in settings}
    make = functools.partial(cls, **arguments, **settings)
    with _named(path):
        for layer in ("pixel_logits", "aux_logits"):
            kernel, bias = (state_key(layer, variable, code_base) for variable in ("kernel", "bias"))
            if shapes.get(kernel, ())[:1] == (1,) and bias in state:
                _make_two_outputs(state, kernel, bias, threshold)
        check_state(make, state, code_base)
        if bgr:
            # `EncNet` takes RGB: the input channels of the first convolution are reversed instead.
            stems = (state_key("stem_conv1", "kernel", code_base, plain) for plain in (False, True))
            stem = next(key for key in stems if key in state)
            state[stem] = np.asarray(state[stem])[:, ::-1]
        with skip_kernel_init():
            model = make()
        load_state(model, state, code_base)
    return model


def backbone_from_checkpoint(checkpoint: Checkpoint) -> keras.Model:
    """A ResNet with the weights of a checkpoint.

    Args:
        checkpoint: from `read_checkpoint`: a ResNet of mmsegmentation, PyTorch-Encoding or timm, for
            instance trained on ImageNet, or an EncNet, of which the backbone is taken.

    Returns:
        A `keras.Model` from normalized RGB to four feature maps.

    Raises:
        ValueError: if it is not a ResNet, or not one that this package has.
    """
    state, code_base = _backbone_state(checkpoint)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    with _named(checkpoint.path):
        name, width = backbone_arguments(shapes, code_base)
        make = functools.partial(backbone_by_name, name, width=width)
        check_state(make, state, code_base, backbone=True)
        with skip_kernel_init():
            backbone = make()
        load_backbone_state(backbone, state, code_base)
    return backbone


def load_backbone(backbone: keras.Model, checkpoint: Checkpoint) -> None:
    """Loads a checkpoint, as in `backbone_from_checkpoint`, into a backbone of the same architecture.

    Raises:
        ValueError: if the checkpoint is of another architecture.
    """
    state, code_base = _backbone_state(checkpoint)
    try:
        load_backbone_state(backbone, state, code_base)
    except ValueError as error:
        raise ValueError(
            f"{checkpoint.path} does not fit the backbone {backbone.name!r}. {error}"
        ) from error


def is_backbone(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds only a backbone."""
    keys = checkpoint.state
    return code_base_of(keys) is None and backbone_code_base_of(keys) is not None


@contextlib.contextmanager
def _named(path):
    """Errors inside name the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} cannot be converted. {error}") from error


def _backbone_state(checkpoint):
    state = checkpoint.state
    code_base = code_base_of(state)
    if code_base:
        return backbone_part(state, code_base), code_base
    code_base = backbone_code_base_of(state)
    if code_base is None:
        raise ValueError(
            f"{checkpoint.path} must hold a ResNet with the names of mmsegmentation, PyTorch-Encoding "
            f"or timm. Received: {_first_keys(state)}."
        )
    return state, code_base


def _settings(checkpoint, code_base, num_classes, release):
    """The settings in the file's metadata, completed by what is known of the release."""
    path, known = checkpoint.path, {}
    if release is not None and release["num_classes"] == num_classes:
        known = {name: value for name, value in release.items() if name != "num_classes"}
    elif code_base == "pytorch_encoding":
        known = {"align_corners": True}
    settings = model_settings(checkpoint.meta)
    for name in ("labels", "palette"):
        if name in settings and len(settings[name]) != num_classes:
            warnings.warn(
                f"{path}: the {name} in its metadata must have one entry for each of {num_classes} "
                f"classes. Received: {len(settings[name])} entries, which are ignored. Pass `{name}=`.",
                stacklevel=4,
            )
            del settings[name]
    if settings.get("ignore_index", num_classes) < num_classes:
        ignored = settings.pop("ignore_index")
        if ignored >= 0:
            warnings.warn(
                f"{path} was trained to ignore the class {ignored}. Here, ignored pixels must have a "
                "value outside the classes. To train the model further, change it in the masks with "
                f"`label_map={{{ignored}: {ignore_index_for(num_classes)}}}`.",
                stacklevel=4,
            )
    return known | settings


def _make_two_outputs(state, kernel, bias, threshold):
    """Replaces a classifier with one output x by an equivalent one with two.

    sigmoid(x) > t exactly where x − log(t / (1 − t)) > 0, so these are the logits of the two classes.
    """
    state[bias] = np.asarray(state[bias]) - np.log(threshold / (1 - threshold))
    for key in (kernel, bias):
        state[key] = np.concatenate([np.zeros_like(state[key]), state[key]])


def _not_encnet(path, shapes):
    if backbone_code_base_of(shapes):
        return (
            f"{path} holds only a backbone. To start from it, use "
            f"`EncNet(backbone, num_classes, backbone_weights={str(path)!r})`."
        )
    codewords = (state_key("encoding", "codewords", name) for name in CODE_BASES)
    return (
        f"{path} must hold an EncNet of mmsegmentation or PyTorch-Encoding, with an entry "
        f"{' or '.join(codewords)}. Received: {_first_keys(shapes)}."
    )


def _first_keys(state):
    return f"{len(state)} entries that begin with {', '.join(map(quoted, list(state)[:3]))}"
