"""Presets on disk: Keras's own directory format, without optimizer."""

import shutil

import numpy as np

from keras_encnet.files import replacing_directory
from keras_encnet.layers.policies import skip_kernel_init

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
    with replacing_directory(directory, "preset", FILES[0]) as new:
        write_preset(model, new, dtype)


def write_preset(model, directory, dtype=None):
    """Writes the files of a preset into an empty directory, one after the other."""
    if dtype not in (None, "float32", "float16"):
        raise ValueError(f"`dtype` is {dtype!r}; weights are stored as 'float32' or 'float16'.")
    if model.compiled:
        # Keras stores the optimizer; a copy that was never compiled has none.
        with skip_kernel_init():
            bare = type(model).from_config(model.get_config())
        bare.set_weights(model.get_weights())
        model = bare
    # Keras wants to make the directory itself.
    made = directory / "made"
    model.save(made, zipped=False)
    if dtype == "float16":
        _halve(made / WEIGHTS)
    # Keras also writes an (empty) assets folder; drop it.
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
