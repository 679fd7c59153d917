"""Presets on disk: Keras's own directory format, without optimizer."""

import os
import pathlib
import shutil

import keras
import numpy as np

from keras_encnet.files import replacing_directory
from keras_encnet.layers.policies import skip_kernel_init
from keras_encnet.presets.checks import check_config, is_encnet

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
FILES = (CONFIG, "metadata.json", WEIGHTS)


def save_preset(model: keras.Model, directory: str | os.PathLike, dtype: str | None = None) -> None:
    """Writes `model` to `directory`, completely or not at all.

    Args:
        model: an `EncNet`, compiled or not, or a backbone.
        directory: where to write; an existing preset is replaced, anything else is an error.
        dtype: `"float32"` (the default), or `"float16"`, which stores kernels in half the space,
            rounded to 11 bits.

    Raises:
        FileExistsError: if `directory` holds something other than a preset.
        ValueError: for another `dtype`, if a weight is too large for it, or if the model has labels or
            settings that `from_preset` would refuse.
    """
    with replacing_directory(directory, "preset", CONFIG) as new:
        write_preset(model, new, dtype)


def write_preset(model: keras.Model, directory: pathlib.Path, dtype: str | None = None) -> None:
    """Writes a preset's files into an empty directory; arguments as in `save_preset`."""
    if dtype not in (None, "float32", "float16"):
        raise ValueError(f"`dtype` must be 'float32' or 'float16'. Received: {dtype!r}")
    if is_encnet(type(model)):
        check_config(model.get_config(), type(model))
    if model.compiled:
        # Keras always stores the optimizer; a copy that was never compiled has none.
        with skip_kernel_init():
            bare = type(model).from_config(model.get_config())
        bare.set_weights(model.get_weights())
        model = bare
    # Keras must create the directory itself, and adds an (empty) assets folder.
    saved = directory / "saved"
    model.save(saved, zipped=False)
    if dtype == "float16":
        _halve(saved / WEIGHTS)
    for file in FILES:
        (saved / file).rename(directory / file)
    shutil.rmtree(saved)


def _halve(path):
    """Rewrites a weights file with float16 kernels. Vectors stay: small, but variances may be large."""
    import h5py

    full = path.with_suffix(".float32")
    path.rename(full)
    with h5py.File(full) as source, h5py.File(path, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                copied = target.require_group(name)
            else:
                value = item[()]
                if value.dtype == "float32" and value.ndim > 1:
                    with np.errstate(over="ignore"):
                        value = value.astype("float16")
                    if not np.isfinite(value).all():
                        raise ValueError(
                            f"Weights stored in float16 must not be over 65504. Received: {name} with "
                            "a larger one. Save with dtype=None, in float32."
                        )
                copied = target.create_dataset(name, data=value)
            copied.attrs.update(item.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
    full.unlink()
