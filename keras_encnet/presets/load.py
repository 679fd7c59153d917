"""From a name to a model: finds the preset's directory and reads it."""

import os
import pathlib
import warnings
from collections.abc import Sequence

import keras

from keras_encnet.convert.pytorch import encnet_from_checkpoint
from keras_encnet.data.conventions import IGNORE_INDEX, ignore_index_for
from keras_encnet.files import recover_swap
from keras_encnet.layers.policies import skip_kernel_init
from keras_encnet.presets.checks import ENCNET, check_size, check_weights, read_config, unbuildable
from keras_encnet.presets.directory import CONFIG, FILES, WEIGHTS
from keras_encnet.presets.hub import HUB, KAGGLE, download_from_hub, download_from_kaggle
from keras_encnet.presets.release import converted, is_converted
from keras_encnet.zoo.table import find, release_settings, suggestion


def load_preset(
    cls: type[keras.Model],
    name: str | os.PathLike,
    *,
    num_classes: int | None,
    labels: Sequence[str] | None,
    load_weights: bool,
    revision: str | None,
    dtype,
) -> keras.Model:
    """Implements `EncNet.from_preset`, which documents the arguments; `cls` is the class to make."""
    if isinstance(labels, str):
        raise ValueError(f"`labels` must be a list of names. Received: {labels!r}")
    directory = preset_directory(cls, name, revision)
    stored = _read_preset(directory, cls)
    wanted = dict(stored)
    if dtype is not None:
        wanted["dtype"] = dtype
    if labels is not None:
        wanted["labels"] = list(labels)
    if num_classes is not None:
        # The old names and colours belong to other classes.
        wanted.update(num_classes=num_classes, labels=labels and list(labels), palette=None)
        wanted["ignore_index"] = ignore_index_for(num_classes, stored.get("ignore_index", IGNORE_INDEX))

    if not load_weights:
        return _make(cls, wanted, stored, directory)
    # This leaves the classifiers alone: new ones keep their initial values.
    with skip_kernel_init():
        source = None if num_classes is None else _make(cls, stored, stored, directory)
        model = _make(cls, wanted, stored, directory)
    _read_weights(model if source is None else source, directory)
    if source is not None:
        copy_all_but_classifiers(source, model)
    return model


def _make(cls, config, stored, directory):
    try:
        return cls.from_config(config)
    except Exception as error:
        # What was stored has been checked: this is about the caller's arguments.
        if isinstance(error, ValueError) and config != stored:
            raise
        raise ValueError(unbuildable(directory, error)) from error


def preset_directory(
    cls: type[keras.Model], name: str | os.PathLike, revision: str | None = None
) -> pathlib.Path:
    """The directory of a preset, which is downloaded if needed.

    Args:
        cls: `EncNet` or a subclass.
        name: `"hf://user/repo"`, `"kaggle://…"`, a directory, or a name of `list_presets()`.
        revision: branch, tag or commit hash, for models on the Hugging Face Hub only.

    Raises:
        ValueError: if there is no such preset, or `revision` is given for one that has none.
    """
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise ValueError(f"`revision` must be a branch, a tag or a commit. Received: {revision!r}")
    name = str(name)
    preset, directory = find(name), recover_swap(pathlib.Path(name))
    if revision is not None and not (name.startswith(HUB) or (preset and preset.hub)):
        raise ValueError(
            f"`revision` must be None for {name}: only models on the Hugging Face Hub "
            f"({HUB}user/repo) have revisions. Received: {revision!r}"
        )
    if name.startswith(HUB):
        return download_from_hub(name, revision)
    if name.startswith(KAGGLE):
        return download_from_kaggle(name)
    if directory.is_dir():
        return directory
    if preset is not None:
        return _published(cls, preset, revision)
    raise ValueError(
        f"Unknown preset {name!r}: it is neither a directory nor a published model."
        f"{suggestion(name)} `keras_encnet.list_presets()` lists all published models."
    )


def _published(cls, preset, revision):
    """The directory of a published model: from the Hub if it is there, or else converted here."""
    if preset.hub and (revision or not is_converted("models", preset)):
        version = revision or preset.hub["revision"]
        checksum = preset.hub["sha256"] if version == preset.hub["revision"] else None
        return download_from_hub(HUB + preset.hub["repo"], version, sha256=checksum)
    # The cache is shared: it stores an `EncNet` even if a subclass asks.
    base = next(c for c in cls.__mro__ if keras.saving.get_registered_name(c) == ENCNET)
    return converted(
        "models",
        preset,
        lambda checkpoint: encnet_from_checkpoint(base, checkpoint, release=release_settings(preset)),
    )


def copy_all_but_classifiers(source: keras.Model, target: keras.Model) -> None:
    """Copies all weights except those of the pixel, SE and auxiliary classifiers."""
    kept = {id(weight) for weight in target.backbone.weights}
    new = {
        id(weight)
        for layer in target._flatten_layers()
        if layer.name.endswith("_logits")
        for weight in layer.weights
        if id(weight) not in kept  # a layer of one's own backbone may have any name
    }
    for value, weight in zip(source.weights, target.weights, strict=True):
        if id(weight) not in new:
            weight.assign(value)


def _read_preset(directory, cls):
    """The config of a preset whose files were checked."""
    for file in FILES:
        if not (directory / file).is_file():
            raise ValueError(
                f"The preset {directory} is incomplete: {file} is missing. A preset holds "
                f"{', '.join(FILES)}. Save it again with `model.save_to_preset(directory)` or, in a "
                "cache, delete its directory."
            )
    config = read_config(directory / CONFIG, cls)
    check_size(cls, config, check_weights(directory / WEIGHTS), directory)
    return config


def _read_weights(model, directory):
    path = directory / WEIGHTS
    try:
        with warnings.catch_warnings():
            # Of layers that it does not find Keras only warns.
            warnings.filterwarnings("error", category=UserWarning, module="keras")
            model.load_weights(path)
    # The file was read before: what Keras finds now are arrays that are missing or do not fit, for
    # which it raises many kinds of errors.
    except Exception as error:
        raise ValueError(
            f"{path} does not fit {CONFIG} next to it, or is damaged ({error}). Copy both again from "
            "their origin. In a cache, delete the directory."
        ) from error
