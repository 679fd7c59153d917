"""`model.export`: checks the arguments and writes the file, completely or not at all."""

import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence

import keras
import numpy as np
from PIL import Image

from keras_encnet.data.conventions import check_image_size, class_names, class_palette
from keras_encnet.data.folders import image_paths
from keras_encnet.data.images import read_image
from keras_encnet.data.resizing import resize_image
from keras_encnet.export.arguments import (
    DEFAULT_OUTPUTS,
    check_format,
    check_packages,
    check_quantization,
    check_shape,
    checked_outputs,
    target,
)
from keras_encnet.export.formats import FORMATS
from keras_encnet.export.graph import ImageToLabels, folded
from keras_encnet.export.quantize import quantized
from keras_encnet.files import replacing, replacing_directory
from keras_encnet.presets.directory import save_preset
from keras_encnet.processes import last_lines, run_python


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
    - `confidence`: that of `segment(..., confidence=True)`, the probability of each pixel's class,
      `(batch, height, width)` float32.
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
            directory. The suffix of another format is refused. An earlier export at that place is
            replaced.
        format: `"tf_saved_model"`, `"onnx"`, `"litert"` or `"openvino"`.
        outputs: which outputs, in any order. The default leaves `presence` out if the model has no
            SE head.
        image_size: `(height, width)` to accept images of that size only; default: any size.
        batch_size: number of images to accept only; default: any number.
        dtype: `"float16"` stores rounded kernels in half the space.
        quantize: `"int8"` computes convolutions with 8-bit integers, in ONNX and LiteRT, except for
            the classifier and for layers of a custom backbone that are not `ConvNorm`.
        calibration: typical images for `quantize`, each read once: a folder, a glob, or an iterable of
            arrays, PIL images or paths. Pairs of image and mask and batches of them, such as those of
            `keras_encnet.data`, are taken without the masks. A hundred images are plenty.
        version: number of a SavedModel, for TensorFlow Serving: it is written to `path/version`.

    Returns:
        The path that was written.

    Raises:
        ValueError: if an argument is not one of the above, or does not go with the others.
        ImportError: if a package that writes the format is missing; the message installs it.
        FileNotFoundError: if `calibration` is a path without images.
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
    check_format(format, dtype)
    outputs = checked_outputs(outputs, model.se_head)
    check_shape(image_size, batch_size)
    check_quantization(format, dtype, quantize, calibration)
    path = target(path, format, version)
    check_packages(format)
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
        child = run_python(["-m", "keras_encnet.export.child"], job, KERAS_BACKEND="tensorflow")
    if child.returncode:
        raise ChildProcessError(f"Exporting with TensorFlow failed:\n{last_lines(child)}")


def classes(model):
    """The names and colours of a model's classes, as lists."""
    return {
        "labels": list(class_names(model.num_classes, model.labels)),
        "palette": class_palette(model.num_classes, model.palette).tolist(),
    }


# === Calibration ===


def _calibration(images, image_size):
    """Reads the images one after the other, and resizes them if `image_size` is given."""
    count = 0
    for count, image in enumerate(_single_images(images), 1):
        name = f"Image {count} of `calibration`"
        if isinstance(image, (str, os.PathLike)):
            name = f"{name}, {os.fspath(image)!r},"
        try:
            image = read_image(image)
        except ValueError as error:
            raise ValueError(f"{name} cannot be used. {error}") from error
        if image_size:
            image = resize_image(image, *image_size)
        check_image_size(*image.shape[:2], name)
        yield image
    if not count:
        raise ValueError("`calibration` must hold one or more images. Received: none")


def _single_images(given):
    """The images of a folder or an iterable, which may hold pairs of image and mask, and batches."""
    if isinstance(given, (str, os.PathLike)):
        given = image_paths(given)
    for each in given:
        image = each[0] if isinstance(each, tuple) and each else each
        if isinstance(image, (str, os.PathLike, Image.Image)) or np.ndim(image) != 4:
            yield image
        else:
            yield from np.asarray(image)


# === Where it goes ===


def _place(path, format):
    """A context that gives the path to write to, whose content replaces `path` if all goes well."""
    if format == "tf_saved_model":
        return replacing_directory(path, "SavedModel", "saved_model.pb")
    if path.is_dir():
        raise FileExistsError(f"{path} is a directory. Choose another name for the file.")
    # OpenVINO's weights, `.bin`, are moved before the graph that reads them, `.xml`.
    return replacing(path)
