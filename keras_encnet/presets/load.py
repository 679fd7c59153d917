"""From a name to a model: which directory it means, and what is read from it."""

import contextlib
import json
import pathlib

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


def load_preset(cls, name, *, num_classes, labels, load_weights, revision, dtype):
    """What `EncNet.from_preset` documents."""
    directory = preset_directory(cls, name, revision)
    stored = _read_config(directory, cls)
    wanted = dict(stored)
    if dtype is not None:
        wanted["dtype"] = dtype
    if labels is not None:
        wanted["labels"] = list(labels)
    if num_classes is not None:
        # The old names and colours are of other classes.
        wanted.update(num_classes=num_classes, labels=labels and list(labels), palette=None)
        wanted["ignore_index"] = ignore_index_for(num_classes, wanted["ignore_index"])

    # The classifiers, which may stay new, have no such kernels.
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


def preset_directory(cls, name, revision=None):
    """The directory of a preset: one on this machine, or one that is brought here first.

    Args:
        cls: `EncNet`, or a class derived from it.
        name: a directory, `"hf://user/repo"`, `"kaggle://…"`, or a name of `list_presets()`.
        revision: which version, on the Hugging Face Hub.

    Raises:
        ValueError: if nothing is called so, or a directory or a release is given a revision.
    """
    if str(name).startswith(HUB):
        return download_from_hub(str(name), revision)
    preset = find(name)
    if revision is not None and not (preset and preset.hub):
        raise ValueError(
            f"`revision` is {revision!r}, but {name} has no revisions, as only a repository of the "
            f"Hugging Face Hub ({HUB}user/repo) has. Leave it out."
        )
    if str(name).startswith(KAGGLE):
        return download_from_kaggle(str(name))
    directory = recover_swap(pathlib.Path(name))
    if directory.is_dir():
        return directory
    if preset is None:
        raise ValueError(
            f"Unknown preset {str(name)!r}: neither a directory nor a published model."
            f"{suggestion(str(name))} `keras_encnet.list_presets()` shows them all."
        )
    if preset.hub and (revision or not is_converted("models", preset)):
        version = revision or preset.hub["revision"]
        checksum = preset.hub["sha256"] if version == preset.hub["revision"] else None
        return download_from_hub(HUB + preset.hub["repo"], version, sha256=checksum)
    # The cache is shared: it holds an `EncNet`, also where a derived class asks for it.
    base = next(c for c in cls.__mro__ if keras.saving.get_registered_name(c) == ENCNET)
    return converted(
        "models",
        preset,
        lambda checkpoint: encnet_from_checkpoint(base, checkpoint, release=release_settings(preset)),
    )


def copy_all_but_classifiers(source, target):
    """Copies the weights of every layer but the pixel, SE and auxiliary classifiers."""
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
                f"{', '.join(FILES)}; write it again with `model.save_to_preset(directory)`, or, in a "
                "cache, delete its directory."
            )
    try:
        stored = json.loads((directory / FILES[0]).read_text("utf-8"))
        registered, config = stored["registered_name"], stored["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(directory / FILES[0], error)) from error
    # A class made from `EncNet` reads what `EncNet` wrote.
    expected = [keras.saving.get_registered_name(base) for base in cls.__mro__]
    if registered not in expected:
        raise ValueError(f"{directory} holds a model of {registered}, not of {expected[0]}.")
    return config


def _read_weights(model, directory):
    path = directory / WEIGHTS
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path, error):
    return (
        f"{path} is damaged ({error}). Write the preset again with `model.save_to_preset(directory)`, "
        "or copy it again from where it came; in a cache, delete its directory."
    )
