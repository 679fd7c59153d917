"""Weights for a backbone: of ImageNet by name, of a preset, or of a checkpoint."""

import os
import pathlib

import keras

from keras_encnet.convert.pytorch import backbone_from_checkpoint, load_backbone
from keras_encnet.convert.reading.checkpoint import read_checkpoint
from keras_encnet.presets.checks import check_weights
from keras_encnet.presets.directory import FILES, WEIGHTS
from keras_encnet.presets.release import backbone_file, converted
from keras_encnet.zoo.table import find_backbone, imagenet_backbone, list_backbones


def load_backbone_weights(
    backbone: keras.Model, architecture: str | None, source: str | os.PathLike
) -> None:
    """Loads weights into a backbone.

    Args:
        backbone: the backbone.
        architecture: its name, such as `"resnet50"`, or `None` for a custom backbone.
        source: `"imagenet"`; a name of `list_backbones()`; a directory that `keras-encnet convert`
            wrote; or a file: `.weights.h5`, or a checkpoint of a ResNet or an EncNet in PyTorch's
            formats or `.safetensors`.

    Raises:
        ValueError: if there are no such weights, or they belong to another architecture.
    """
    path = pathlib.Path(source)
    # A folder named "imagenet" is probably the data set.
    if str(source) == "imagenet" or not path.exists():
        path = _published(architecture, str(source))
    if path.is_dir():
        path = path / WEIGHTS
        if not path.is_file():
            raise ValueError(f"{path} is missing. The preset of a backbone holds {', '.join(FILES)}.")
    if path.suffix != ".h5":
        load_backbone(backbone, read_checkpoint(path))
        return
    check_weights(path)
    try:
        backbone.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} does not fit the backbone {backbone.name!r}, or is damaged: {error}"
        ) from error


def _published(architecture, name):
    """Published weights: the directory of a preset, or a checkpoint file."""
    record = imagenet_backbone(architecture) if name == "imagenet" else find_backbone(name)
    if record is None and name == "imagenet":
        known = sorted({record.architecture for record in list_backbones()})
        raise ValueError(
            f"There are no ImageNet weights for the backbone {architecture!r}, only for "
            f"{', '.join(known)}. Give the path of a checkpoint instead."
        )
    if record is None:
        raise ValueError(
            "`backbone_weights` must be a file, a directory, 'imagenet' or one of "
            f"{', '.join(record.name for record in list_backbones())}. Received: {name!r}"
        )
    if record.architecture != architecture:
        raise ValueError(
            f"Weights for the backbone {architecture!r} must be of the same architecture. Received: "
            f"{record.name}, which is for {record.architecture!r}"
        )
    if record.release is None:
        return backbone_file(record)
    return converted("backbones", record, backbone_from_checkpoint)
