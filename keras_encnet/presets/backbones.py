"""Weights for a backbone: ImageNet's by name, a preset's, or a checkpoint's."""

import pathlib

from keras_encnet.convert.pytorch import backbone_from_checkpoint, load_backbone
from keras_encnet.convert.reading.checkpoint import read_checkpoint
from keras_encnet.presets.directory import FILES, WEIGHTS
from keras_encnet.presets.hub import download_file
from keras_encnet.presets.release import converted
from keras_encnet.presets.table import find_backbone, imagenet_backbone, list_backbones


def load_backbone_weights(backbone, architecture, source):
    """Loads weights into a backbone.

    Args:
        backbone: a `keras.Model`.
        architecture: its name, `"resnet50"` for instance, or `None` for one of the user's own.
        source: `"imagenet"`; a name of `list_backbones()`; a directory that `keras-encnet convert`
            wrote; or a file: `.weights.h5`, or a checkpoint of a ResNet or an EncNet in PyTorch's
            formats or `.safetensors`.

    Raises:
        ValueError: if there are no such weights, or they are of another architecture.
    """
    path = pathlib.Path(source)
    # A folder of that name is more likely the data set.
    if str(source) == "imagenet" or not path.exists():
        path = _published(architecture, str(source))
    if path.is_dir():
        path = path / WEIGHTS
        if not path.is_file():
            raise ValueError(f"{path} is missing: a backbone's preset holds {', '.join(FILES)}.")
    if path.suffix != ".h5":
        load_backbone(backbone, read_checkpoint(path))
        return
    try:
        backbone.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} does not fit the backbone {backbone.name!r}, or is damaged: {error}"
        ) from error


def _published(architecture, name):
    """The preset directory, or the checkpoint, of published weights."""
    record = imagenet_backbone(architecture) if name == "imagenet" else find_backbone(name)
    if record is None and name == "imagenet":
        known = sorted({record.architecture for record in list_backbones()})
        raise ValueError(
            f"There are no ImageNet weights for the backbone {architecture!r}. There are for "
            f"{', '.join(known)}; or give the path of a checkpoint."
        )
    if record is None:
        raise ValueError(
            f"`backbone_weights` is {name!r}: no file, no directory, and no published backbone. Known "
            f"are 'imagenet', {', '.join(record.name for record in list_backbones())}."
        )
    if record.architecture != architecture:
        raise ValueError(
            f"{record.name} are weights of {record.architecture!r}; the backbone is {architecture!r}."
        )
    if record.release is None:
        return download_file(record.hub["repo"], record.hub["file"])
    return converted("backbones", record, backbone_from_checkpoint)
