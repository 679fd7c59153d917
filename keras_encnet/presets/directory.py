"""Presets on disk: Keras's own directory format, without optimizer."""

import json
import pathlib
import shutil
import tempfile

import keras

from keras_encnet.presets.table import SHORT_NAMES, list_presets, suggestion

FILES = ("config.json", "metadata.json", "model.weights.h5")


def save_preset(model, directory):
    """Writes `model` to `directory`: beside it first, then swapped in.

    Args:
        model: an `EncNet`, compiled or not.
        directory: where to; a preset that is there is replaced, anything else is an error.

    Raises:
        FileExistsError: if `directory` holds something other than a preset.
    """
    directory = pathlib.Path(directory)
    _recover(directory)
    if directory.exists() and not _is_preset_or_empty(directory):
        raise FileExistsError(
            f"{directory} exists and is no preset (it lacks {FILES[0]}). Choose another directory."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A copy that was never compiled has no optimizer to be stored.
    bare = type(model).from_config(model.get_config())
    bare.set_weights(model.get_weights())
    beside = pathlib.Path(
        tempfile.mkdtemp(prefix=f".{directory.name}-unfinished-", dir=directory.parent)
    )
    try:
        # Keras wants to make the directory itself.
        bare.save(beside / "preset", zipped=False)
        # Keras's folder for what is no array, vocabularies and the like: empty, if it is there.
        assets = beside / "preset" / "assets"
        if assets.is_dir():
            assets.rmdir()
        old = _old(directory)
        if directory.exists():
            directory.rename(old)
        (beside / "preset").rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_preset(cls, name, *, num_classes, labels, load_weights, revision, dtype):
    """What `EncNet.from_preset` documents."""
    directory = pathlib.Path(name)
    _recover(directory)
    if not directory.is_dir():
        raise ValueError(_unknown(str(name)))
    if revision is not None:
        raise ValueError(
            f"`revision` is {revision!r}, but {directory} is a directory, which has none: leave it out."
        )
    stored = _read_config(directory, cls)
    wanted = dict(stored)
    if dtype is not None:
        wanted["dtype"] = dtype
    if labels is not None:
        wanted["labels"] = list(labels)
    if num_classes is not None:
        # The old names and colours are of other classes.
        wanted.update(num_classes=num_classes, labels=labels and list(labels), palette=None)

    model = cls.from_config(wanted)
    if not load_weights:
        return model
    if num_classes is None:
        _read_weights(model, directory)
    else:
        source = cls.from_config(stored)
        _read_weights(source, directory)
        copy_all_but_classifiers(source, model)
    return model


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
                f"{', '.join(FILES)}; write it again with `model.save_to_preset(directory)`."
            )
    try:
        stored = json.loads((directory / "config.json").read_text("utf-8"))
        registered, config = stored["registered_name"], stored["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(directory / "config.json", error)) from error
    expected = keras.saving.get_registered_name(cls)
    if registered != expected:
        raise ValueError(f"{directory} holds a model of {registered}, not of {expected}.")
    return config


def _read_weights(model, directory):
    path = directory / "model.weights.h5"
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path, error):
    return (
        f"{path} is damaged ({error}). Write the preset again with "
        "`model.save_to_preset(directory)`, or copy it again from where it came."
    )


def _unknown(name):
    known = {**{preset.name: preset.name for preset in list_presets()}, **SHORT_NAMES}
    if name in known:
        return (
            f"The weights of {known[name]!r} cannot be downloaded by this version of keras-encnet. "
            "Give the directory of a preset that `model.save_to_preset` wrote."
        )
    return (
        f"Unknown preset {name!r}: neither a directory nor a published model.{suggestion(name)} "
        "`keras_encnet.list_presets()` shows them all."
    )


def _is_preset_or_empty(directory):
    return directory.is_dir() and ((directory / FILES[0]).is_file() or not any(directory.iterdir()))


def _recover(directory):
    """Puts back what a kill between the two renames of `save_preset` left aside."""
    old = _old(directory)
    if old.is_dir() and not directory.exists():
        old.rename(directory)


def _old(directory):
    return directory.with_name(f".{directory.name}-before")
