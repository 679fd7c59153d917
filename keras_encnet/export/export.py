"""`model.export`: checks the arguments and writes the file, completely or not at all."""

import importlib.util
import json
import numbers
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence

import keras
from PIL import Image

from keras_encnet.data.conventions import (
    MIN_SIZE,
    check_image_size,
    class_names,
    class_palette,
)
from keras_encnet.data.images import read_image, resize_image
from keras_encnet.export.formats import FORMATS
from keras_encnet.export.graph import ImageToLabels, folded
from keras_encnet.export.quantize import quantized
from keras_encnet.files import replacing, replacing_directory
from keras_encnet.presets.directory import save_preset

OUTPUTS = ("labels", "logits", "probabilities", "presence")
DEFAULT_OUTPUTS = ("labels", "presence")
DTYPES = ("float32", "float16")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def export_model(
    model: keras.Model,
    path: str | os.PathLike,
    format: str = "tf_saved_model",
    *,
    outputs: Sequence[str] | str = DEFAULT_OUTPUTS,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    dtype: str = "float32",
    quantize: str | None = None,
    calibration: str | os.PathLike | Iterable | None = None,
    version: int | None = None,
) -> pathlib.Path:
    """Writes a file that maps images to label maps and runs without Keras or this package.

    The input is `images`, `uint8` RGB `(batch, height, width, 3)`, sides from 32 up. The outputs have
    the same names in every format:

    - `labels`: the label map of `model.segment`, `(batch, height, width)`, `uint8` up to 255 classes,
      otherwise `uint16`, including the preset's resize and sliding window. (Elsewhere `labels` are
      class names; here the name stays for compatibility.)
    - `presence`: the probability that each class is in the scene, `(batch, num_classes)`.
    - `logits`: `model(images)`, `(batch, height, width, num_classes)` float32.
    - `probabilities`: their softmax.

    The arithmetic is float32 whatever the model's dtype policy. Only what inference needs is written,
    with batch norms folded into the convolutions. Class names and colours are in the file: the
    signature `classes` of a SavedModel, the metadata `labels` and `palette` (JSON) of ONNX,
    `model_info` of OpenVINO, and `labels.json` in LiteRT's file, which is also a zip archive.

    A SavedModel has the signatures `serving_default`, `from_bytes` (JPEG and PNG byte strings to PNG
    label maps), `logits` and `classes`, Keras's endpoint `serve`, and requests that warm a server up.

    Args:
        model: an `EncNet`, on any backend. TensorFlow does the work, in a child process if it is not
            the backend.
        path: path of the file, whose suffix is added if it is missing, or of the SavedModel's
            directory. An earlier export at that place is replaced.
        format: `"tf_saved_model"`, `"onnx"`, `"litert"` or `"openvino"`.
        outputs: which outputs, in any order. The default leaves `presence` out if the model has no
            SE head.
        image_size: `(height, width)` to accept images of that size only; default: any size.
        batch_size: number of images to accept only; default: any number.
        dtype: `"float16"` stores rounded kernels in half the space.
        quantize: `"int8"` computes convolutions with 8-bit integers, in ONNX and LiteRT, except for
            the classifier and for layers of a custom backbone that are not `ConvNorm`.
        calibration: typical images for `quantize`, each read once: arrays, PIL images or paths, or
            the path of a folder. A hundred are plenty.
        version: number of a SavedModel, for TensorFlow Serving: it is written to `path/version`.

    Returns:
        The path that was written.

    Raises:
        ValueError: if an argument is not one of the above, or does not go with the others.
        ImportError: if a package that writes the format is missing; it is named.
        FileExistsError: if there is something else at `path`.
        OSError: if nothing can be written there.

    >>> import tempfile
    >>> from keras_encnet import EncNet
    >>> from keras_encnet.export import open_export
    >>> model = EncNet("resnet18", num_classes=3, width=0.125, head_channels=16)
    >>> path = model.export(tempfile.mkdtemp() + "/model", format="litert")
    >>> found = open_export(path)(np.zeros((2, 40, 64, 3), "uint8"))
    >>> path.name, found["labels"].shape, found["presence"].shape
    ('model.tflite', (2, 40, 64), (2, 3))
    """
    outputs = _check(model, format, outputs, image_size, batch_size, dtype)
    _check_quantization(format, dtype, quantize, calibration)
    _check_packages(format)
    path = _target(path, format, version)
    options = {
        "outputs": outputs,
        "image_size": image_size and tuple(map(int, image_size)),
        "batch_size": batch_size and int(batch_size),
        "dtype": dtype,
        "quantize": quantize,
    }
    write = write_file if keras.backend.backend() == "tensorflow" else _write_in_a_child
    with _place(path, format) as made:
        write(model, made, format, calibration, **options)
    return path


def write_file(model, path, format, calibration, *, image_size, batch_size, dtype, quantize, outputs):
    """Writes what `export_model` was asked for, on the TensorFlow backend, without further checks."""
    row, options = FORMATS[format], {}
    if dtype == "float16" and not row.keeps_casts:
        options["half"] = True
    network = folded(model, dtype if row.keeps_casts else "float32")
    graph = ImageToLabels(network, model, outputs, row.runtime)
    if quantize:
        graph = quantized(graph, _calibration(calibration, image_size))
        options["integers"] = True
    shape = (batch_size, *(image_size or (None, None)), 3)
    row.write(graph, path, shape, classes(model), **options)


def _write_in_a_child(model, path, format, calibration, **options):
    """Saves the model and lets a process with the TensorFlow backend export it."""
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        scratch = pathlib.Path(scratch)
        save_preset(model, scratch / "model")
        job = {
            "preset": str(scratch / "model"),
            "path": str(path.resolve()),
            "format": format,
            "calibration": None,
            "options": options,
        }
        if calibration is not None:
            job["calibration"] = str(scratch / "calibration")
            (scratch / "calibration").mkdir()
            for i, image in enumerate(_calibration(calibration, options["image_size"])):
                Image.fromarray(image).save(scratch / "calibration" / f"{i:06}.png")
        root = str(pathlib.Path(__file__).resolve().parents[2])
        env = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            # This process may be using the GPU.
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        command = [sys.executable, "-m", "keras_encnet.export.child"]
        child = subprocess.run(command, input=json.dumps(job), env=env, capture_output=True, text=True)
    if child.returncode:
        said = child.stderr.strip().splitlines()[-5:] or ["no message"]
        raise ChildProcessError("\n".join(["Exporting with TensorFlow failed:", *said]))


def classes(model):
    """The names and colours of a model's classes, as lists."""
    return {
        "labels": list(class_names(model.num_classes, model.labels)),
        "palette": class_palette(model.num_classes, model.palette).tolist(),
    }


# === Arguments ===


def _check(model, format, outputs, image_size, batch_size, dtype):
    if format not in tuple(FORMATS):
        raise ValueError(f"`format` must be one of {_listed(FORMATS)}. Received: {format!r}")
    if dtype not in DTYPES:
        raise ValueError(
            f"`dtype` must be one of {_listed(DTYPES)}, in every format. Received: {dtype!r} for "
            f"{format!r}"
        )
    outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
    if outputs == DEFAULT_OUTPUTS and not model.se_head:
        outputs = ("labels",)
    if not outputs or set(outputs) - set(OUTPUTS) or len(set(outputs)) < len(outputs):
        raise ValueError(
            f"`outputs` must be one or more of {_listed(OUTPUTS)}, each once. Received: {outputs!r}"
        )
    if "presence" in outputs and not model.se_head:
        raise ValueError(
            f"`outputs` cannot have 'presence' without an SE head, and this model has `se_head=False`. "
            f"Received: {outputs!r}. Leave 'presence' out."
        )
    if image_size is not None and not _are_sizes(image_size, 2, MIN_SIZE):
        raise ValueError(
            f"`image_size` must be (height, width), {MIN_SIZE} or more each, or None. "
            f"Received: {image_size!r}"
        )
    if batch_size is not None and not _are_sizes([batch_size], 1, 1):
        raise ValueError(
            f"`batch_size` must be an integer of 1 or more, or None. Received: {batch_size!r}"
        )
    return outputs


def _are_sizes(values, count, least):
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and all(isinstance(value, numbers.Integral) and value >= least for value in values)
        and not any(isinstance(value, bool) for value in values)
    )


def _listed(names):
    return ", ".join(map(repr, names))


def _check_quantization(format, dtype, quantize, calibration):
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
    if not isinstance(calibration, (str, os.PathLike, Iterable)):
        raise ValueError(
            "`quantize='int8'` needs `calibration=`, a folder or several images of the kind that the "
            f"model will see. Received: {calibration!r}"
        )


def _check_packages(format):
    packages = FORMATS[format].packages
    for package in ("tensorflow", *packages):
        if not importlib.util.find_spec(package):
            remedy = "keras-encnet[export]" if package in packages else "tensorflow"
            raise ImportError(
                f"Writing {format!r} needs {package}, which is not installed: pip install '{remedy}'",
                name=package,
            )


def _target(path, format, version):
    path = pathlib.Path(path)
    if version is not None:
        if format != "tf_saved_model" or not _are_sizes([version], 1, 0):
            raise ValueError(
                "`version` must be an integer of 0 or more, and the format 'tf_saved_model'. "
                f"Received: {version!r} for {format!r}"
            )
        return path / str(version)
    if not path.name:
        raise ValueError(f"`path` must be the name of a file or directory. Received: {str(path)!r}")
    suffix = FORMATS[format].suffix
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)


def _calibration(images, image_size):
    """Reads the images one after the other, and resizes them if `image_size` is given."""
    if isinstance(images, (str, os.PathLike)):
        folder = pathlib.Path(images)
        images = sorted(file for file in folder.glob("*") if file.suffix.lower() in PICTURES)
        if not images:
            raise ValueError(
                f"`calibration` must be a folder with images ({', '.join(PICTURES)}). "
                f"Received: {str(folder)!r}, which has none"
            )
    count = 0
    for count, image in enumerate(images, 1):
        image = read_image(image)
        if image_size:
            image = resize_image(image, *image_size)
        check_image_size(*image.shape[:2], f"Image {count} of `calibration`")
        yield image
    if not count:
        raise ValueError("`calibration` must hold one or more images. Received: none")


# === Where it goes ===


def _place(path, format):
    """A context that gives the path to write to, whose content replaces `path` if all goes well."""
    if format == "tf_saved_model":
        return replacing_directory(path, "SavedModel", "saved_model.pb")
    if path.is_dir():
        raise FileExistsError(f"{path} is a directory. Choose another name for the file.")
    # OpenVINO's weights, `.bin`, are moved before the graph that reads them, `.xml`.
    return replacing(path)
