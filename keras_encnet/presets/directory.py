"""Presets on disk: Keras's own directory format, without optimizer."""

import contextlib
import pathlib
import shutil
import tempfile

import numpy as np

from keras_encnet.layers.conv_norm import kernels_not_drawn

WEIGHTS = "model.weights.h5"
FILES = ("config.json", "metadata.json", WEIGHTS)


def save_preset(model, directory, dtype=None):
    """Writes `model` to `directory`: beside it first, then swapped in.

    Args:
        model: an `EncNet`, compiled or not, or a backbone.
        directory: where to; a preset that is there is replaced, anything else is an error.
        dtype: `"float16"` stores kernels in half the space; they are rounded to 11 bits.

    Raises:
        FileExistsError: if `directory` holds something other than a preset.
        ValueError: if `dtype` is another one, or a weight is too large for it.
    """
    with swapped_in(directory, "preset", FILES[0]) as made:
        write_preset(model, made, dtype)


@contextlib.contextmanager
def swapped_in(directory, kind, marker):
    """An empty directory to write to, which takes the place of `directory` if all goes well.

    What is at `directory` has to be empty or hold the file `marker`, as a `kind` of thing does."""
    # The place itself, not a link to it.
    directory = pathlib.Path(directory).resolve()
    _clean_up(directory)
    if directory.exists() and not _holds_or_empty(directory, marker):
        raise FileExistsError(
            f"{directory} exists and is no {kind} (it lacks {marker}). Choose another directory."
        )
    with beside(directory) as unfinished:
        made = unfinished / "made"
        made.mkdir()
        yield made
        old = _old(directory)
        if directory.exists():
            directory.rename(old)
        made.rename(directory)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def beside(path):
    """A directory beside `path` for what is not finished; it is gone afterwards.

    Raises:
        OSError: nothing can be written there; it names `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=f".{path.name}-unfinished-", dir=path.parent)
    except OSError as error:
        remedy = f"{error.strerror}; choose another place"
        raise type(error)(error.errno, remedy, str(path)) from error
    try:
        yield pathlib.Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_preset(model, directory, dtype=None):
    """Writes the files of a preset into an empty directory, one after the other."""
    if dtype not in (None, "float32", "float16"):
        raise ValueError(f"`dtype` is {dtype!r}; weights are stored as 'float32' or 'float16'.")
    if model.compiled:
        # Keras stores the optimizer; a copy that was never compiled has none.
        with kernels_not_drawn():
            bare = type(model).from_config(model.get_config())
        bare.set_weights(model.get_weights())
        model = bare
    # Keras wants to make the directory itself.
    made = directory / "made"
    model.save(made, zipped=False)
    if dtype == "float16":
        _halve(made / WEIGHTS)
    # But for these there is Keras's folder for what is no array, which is empty.
    for file in FILES:
        (made / file).rename(directory / file)
    shutil.rmtree(made)


def _halve(path):
    """Stores kernels in float16. Vectors stay: they are small, and variances may be large."""
    import h5py

    whole = path.with_suffix(".float32")
    path.rename(whole)
    with h5py.File(whole) as source, h5py.File(path, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                made = target.require_group(name)
            else:
                value = item[()]
                if value.dtype == "float32" and value.ndim > 1:
                    with np.errstate(over="ignore"):
                        value = value.astype("float16")
                    if not np.isfinite(value).all():
                        raise ValueError(
                            f"A weight ({name}) is over 65504, the largest that float16 holds: store "
                            "the model in float32."
                        )
                made = target.create_dataset(name, data=value)
            made.attrs.update(item.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
    whole.unlink()


def _holds_or_empty(directory, marker):
    return directory.is_dir() and ((directory / marker).is_file() or not any(directory.iterdir()))


def whole(directory):
    """Where the preset of a directory is: there, or aside while `save_preset` changes it."""
    old = _old(directory)
    return old if old.is_dir() and not directory.exists() else directory


def _clean_up(directory):
    """Puts back, or removes, what a save that was killed left aside."""
    old = _old(directory)
    if old.is_dir():
        if directory.exists():
            shutil.rmtree(old)
        else:
            old.rename(directory)


def _old(directory):
    directory = directory.resolve()
    return directory.parent / f".{directory.name}-before"
