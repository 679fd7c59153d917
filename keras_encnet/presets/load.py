"""From a name to a model: which directory it means, and what is read from it."""

import contextlib
import json
import pathlib
import sys
import time

import keras

from keras_encnet.convert.pytorch import encnet_from_checkpoint
from keras_encnet.layers.conv_norm import kernels_not_drawn
from keras_encnet.models.encnet import EncNet
from keras_encnet.presets.directory import FILES, WEIGHTS, whole
from keras_encnet.presets.hub import HUB, KAGGLE, download_from_hub, download_from_kaggle
from keras_encnet.presets.release import converted, is_converted
from keras_encnet.presets.table import find, suggestion


def load_preset(cls, name, *, num_classes, labels, load_weights, revision, dtype, verbose):
    """What `EncNet.from_preset` documents."""
    watch = Stopwatch(verbose)
    directory = preset_directory(name, revision)
    watch.lap(f"found {directory}")
    stored = _read_config(directory, cls)
    wanted = dict(stored)
    if dtype is not None:
        wanted["dtype"] = dtype
    if labels is not None:
        wanted["labels"] = list(labels)
    if num_classes is not None:
        # The old names and colours are of other classes.
        wanted.update(num_classes=num_classes, labels=labels and list(labels), palette=None)
        if num_classes > wanted["ignore_index"]:
            wanted["ignore_index"] = 65535

    # The classifiers, which may stay new, have no such kernels.
    with kernels_not_drawn() if load_weights else contextlib.nullcontext():
        model = cls.from_config(wanted)
    watch.lap("built the network")
    if load_weights:
        if num_classes is None:
            _read_weights(model, directory)
        else:
            with kernels_not_drawn():
                source = cls.from_config(stored)
            _read_weights(source, directory)
            copy_all_but_classifiers(source, model)
        watch.lap("read the weights")
    return model


def preset_directory(name, revision=None):
    """The directory of a preset: one on this machine, or one that is brought here first.

    Args:
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
    directory = whole(pathlib.Path(name))
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
    return converted(
        "models",
        preset,
        lambda checkpoint: encnet_from_checkpoint(EncNet, checkpoint, preset=preset),
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


class Stopwatch:
    """Says on the standard error how long each step took, if it is to."""

    def __init__(self, running):
        self.running, self.last = running, time.perf_counter()

    def lap(self, what):
        now = time.perf_counter()
        if self.running:
            print(f"{now - self.last:6.2f} s  {what}", file=sys.stderr)
        self.last = now
