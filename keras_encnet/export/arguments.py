"""Checks of the arguments of `model.export` and `verify`."""

import importlib.util
import os
import pathlib
from collections.abc import Mapping

from keras_encnet.data.conventions import MIN_SIZE, is_integer
from keras_encnet.export.formats import FORMATS
from keras_encnet.export.runtimes import RUNTIMES

OUTPUTS = ("labels", "logits", "probabilities", "presence", "confidence")
DEFAULT_OUTPUTS = ("labels", "presence")
DTYPES = ("float32", "float16")


def check_format(format, dtype):
    if format not in tuple(FORMATS):
        raise ValueError(f"`format` must be one of {_listed(FORMATS)}. Received: {format!r}")
    if dtype not in DTYPES:
        raise ValueError(
            f"`dtype` must be one of {_listed(DTYPES)}, in every format. Received: {dtype!r} for "
            f"{format!r}"
        )


def checked_outputs(outputs, se_head):
    """`outputs` as a tuple; the default ones without `"presence"` if there is no SE head."""
    names = (outputs,) if isinstance(outputs, str) else outputs
    names = tuple(names) if isinstance(names, (list, tuple)) else ()
    if names == DEFAULT_OUTPUTS and not se_head:
        names = ("labels",)
    if not names or any(name not in OUTPUTS or names.count(name) > 1 for name in names):
        raise ValueError(
            f"`outputs` must be one or more of {_listed(OUTPUTS)}, each once. Received: {outputs!r}"
        )
    if "presence" in names and not se_head:
        raise ValueError(
            f"`outputs` cannot have 'presence' without an SE head, and this model has `se_head=False`. "
            f"Received: {outputs!r}. Leave 'presence' out."
        )
    return names


def check_shape(image_size, batch_size):
    pair = isinstance(image_size, (list, tuple))
    if image_size is not None and not (pair and are_integers(image_size, 2, MIN_SIZE)):
        raise ValueError(
            f"`image_size` must be (height, width), {MIN_SIZE} or more each, or None. "
            f"Received: {image_size!r}"
        )
    if batch_size is not None and not are_integers([batch_size], 1, 1):
        raise ValueError(
            f"`batch_size` must be an integer of 1 or more, or None. Received: {batch_size!r}"
        )


def check_quantization(format, dtype, quantize, calibration):
    if quantize is None:
        if calibration is not None:
            raise ValueError("`calibration` needs `quantize='int8'`. Received: quantize=None")
        return
    if quantize != "int8" or not FORMATS[format].quantizes or dtype != "float32":
        able = [name for name, row in FORMATS.items() if row.quantizes]
        raise ValueError(
            f"`quantize` must be 'int8', with the format {' or '.join(map(repr, able))} and the dtype "
            f"'float32'. Received: {quantize!r} with {format!r} and {dtype!r}"
        )
    several = isinstance(calibration, (str, os.PathLike)) or (
        # Keras's datasets have no `__iter__`.
        any(hasattr(calibration, name) for name in ("__iter__", "__getitem__"))
        and not isinstance(calibration, (bytes, Mapping))
        and getattr(calibration, "ndim", 4) in (1, 4)
    )
    if not several:
        shape = getattr(calibration, "shape", None)
        received = repr(calibration) if shape is None else f"an array of shape {tuple(shape)}"
        raise ValueError(
            "`quantize='int8'` needs `calibration=`, a folder or several images of the kind that the "
            f"model will see. Received: {received}"
        )


def check_packages(format):
    """Raises an error with the line that installs what is missing, if writing needs any of it."""
    row = FORMATS[format]
    needed = ("tensorflow", *row.packages)
    run = [runtime.package for runtime in RUNTIMES.values() if runtime.suffix == row.suffix]
    missing = [name for name in dict.fromkeys([*needed, *run]) if not _is_installed(name)]
    if set(missing) & set(needed):
        raise ImportError(
            f"Writing {format!r} needs {missing[0]}, which is not installed: "
            f"pip install {' '.join(missing)}",
            name=missing[0],
        )


def _is_installed(package):
    return bool(importlib.util.find_spec(package.replace("-", "_")))


def target(path, format, version):
    """The path to write to: with the format's suffix, or with the version."""
    path, suffix = pathlib.Path(path), FORMATS[format].suffix
    others = {row.suffix: name for name, row in FORMATS.items() if row.suffix and name != format}
    if path.suffix.lower() in others:
        ending = f"end in {suffix!r}, which is added if it is missing" if suffix else "be a directory's"
        raise ValueError(
            f"`path` must {ending}, for the format {format!r}. Received: {str(path)!r}. Pass "
            f"format={others[path.suffix.lower()]!r} for that file."
        )
    if version is not None:
        if format != "tf_saved_model" or not are_integers([version], 1, 0):
            raise ValueError(
                "`version` must be an integer of 0 or more, and the format 'tf_saved_model'. "
                f"Received: {version!r} for {format!r}"
            )
        return path / str(version)
    if not path.name:
        raise ValueError(f"`path` must be the name of a file or directory. Received: {str(path)!r}")
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)


def are_integers(values, count, least):
    """Whether there are `count` integers of `least` or more; booleans are none."""
    return len(values) == count and all(is_integer(value) and value >= least for value in values)


def _listed(names):
    return ", ".join(map(repr, names))
