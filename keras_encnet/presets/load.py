"""From a name to a model: finds the preset's directory and reads it."""

import contextlib
import json
import os
import pathlib
from collections.abc import Sequence

import keras

from keras_encnet.convert.pytorch import encnet_from_checkpoint
from keras_encnet.data.conventions import ignore_index_for
from keras_encnet.files import recover_swap
from keras_encnet.layers.policies import skip_kernel_init
from keras_encnet.presets.directory import FILES, WEIGHTS
from keras_encnet.presets.hub import HUB, KAGGLE, download_from_hub, download_from_kaggle
from keras_encnet.presets.release import converted, is_converted
from keras_encnet.presets.table import find, release_settings, suggestion

ENCNET = "keras_encnet>EncNet"


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
    directory = preset_directory(cls, name, revision)
    stored = _read_config(directory, cls)
    wanted = dict(stored)
    if dtype is not None:
        wanted["dtype"] = dtype
    if labels is not None:
        wanted["labels"] = list(labels)
    if num_classes is not None:
        # The old names and colours belong to other classes.
        wanted.update(num_classes=num_classes, labels=labels and list(labels), palette=None)
        wanted["ignore_index"] = ignore_index_for(num_classes, wanted["ignore_index"])

    # This leaves the classifiers alone: new ones keep their initial values.
    with skip_kernel_init() if load_weights else contextlib.nullcontext():
        model = cls.from_config(wanted)
    if load_weights:
        if num_classes is None:
            _read_weights(model, directory)
        else:
            with skip_kernel_init():
                source = cls.from_config(stored)
            _read_weights(source, directory)
            copy_all_but_classifiers(source, model)
    return model


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
    """Copies the weights of all layers except the pixel, SE and auxiliary classifiers."""
    for old, new in zip(source._flatten_layers(), target._flatten_layers(), strict=True):
        own = not old._layers and not old.name.endswith("_logits")
        if own:
            for value, variable in zip(old.weights, new.weights, strict=True):
                variable.assign(value)


def _read_config(directory, cls):
    for file in FILES:
        if not (directory / file).is_file():
            raise ValueError(
                f"The preset {directory} is incomplete: {file} is missing. A preset holds "
                f"{', '.join(FILES)}. Save it again with `model.save_to_preset(directory)` or, in a "
                "cache, delete its directory."
            )
    try:
        stored = json.loads((directory / FILES[0]).read_text("utf-8"))
        registered, config = stored["registered_name"], stored["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(directory / FILES[0], error)) from error
    # A subclass may read what `EncNet` wrote.
    readable = [keras.saving.get_registered_name(base) for base in cls.__mro__]
    if registered not in readable:
        raise ValueError(f"{directory} must hold a model of {readable[0]}. Received: {registered}")
    return config


def _read_weights(model, directory):
    path = directory / WEIGHTS
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path, error):
    return (
        f"{path} is damaged ({error}). Save the preset again with `model.save_to_preset(directory)` or "
        "copy it again from its origin. In a cache, delete its directory."
    )
