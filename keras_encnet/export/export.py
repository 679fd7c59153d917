"""`model.export`: checks what is asked for, and sees to it that it is there whole or not at all."""

import importlib.util
import numbers
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable

import keras
from PIL import Image

from keras_encnet.data.conventions import MIN_SIZE, class_names, class_palette
from keras_encnet.data.images import read_image, resize_image
from keras_encnet.files import replacing, replacing_directory
from keras_encnet.presets.directory import save_preset

FORMATS = {"tf_saved_model": "", "onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
OUTPUTS = ("labels", "logits", "probabilities", "presence")
DEFAULT_OUTPUTS = ("labels", "presence")
DTYPES = ("float32", "float16")
QUANTIZED = ("onnx", "litert")
# What a format needs beside TensorFlow, by the names of modules.
NEEDS = {"onnx": ("tf2onnx", "onnx"), "openvino": ("openvino", "scipy")}
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def export_model(
    model,
    path,
    format="tf_saved_model",
    *,
    outputs=DEFAULT_OUTPUTS,
    image_size=None,
    batch_size=None,
    dtype="float32",
    quantize=None,
    calibration=None,
    version=None,
):
    """Writes a file that takes images and gives label maps, with nothing of ours beside it.

    The input is `images`, `uint8` RGB `(batch, height, width, 3)`, sides from 32 up. The outputs are
    called the same in every format:

    - `labels`: what `model.segment` answers, `(batch, height, width)`, `uint8` up to 255 classes, else
      `uint16`; the preset's resize and sliding window are inside.
    - `presence`: the probability that each class is in the scene, `(batch, num_classes)`, as there.
    - `logits`: `model(images)`, `(batch, height, width, num_classes)` float32.
    - `probabilities`: their softmax.

    The arithmetic is float32 whatever the model's dtype policy. Only what inference needs is written,
    with batch norms folded into the convolutions. Class names and colours are in the file: the
    signature `classes` of a SavedModel, the metadata `labels` and `palette` (JSON) of ONNX,
    `model_info` of OpenVINO, and `labels.json` in LiteRT's file, which is also a zip archive.

    A SavedModel has the signatures `serving_default`, `from_bytes` (JPEG and PNG byte strings to PNG
    label maps), `logits` and `classes`, Keras's endpoint `serve`, and requests that warm a server up.

    Args:
        model: an `EncNet`, of any backend; TensorFlow does the work, in a process of its own if it
            is not the backend.
        path: of the file, whose suffix is added where it is missing, or the SavedModel's directory.
            What such an export wrote there before is replaced.
        format: `"tf_saved_model"`, `"onnx"`, `"litert"` or `"openvino"`.
        outputs: which outputs, in any order. `presence` is left out of the default where the model
            has no SE head.
        image_size: `(height, width)` if only images of that size are to be taken; default: any.
        batch_size: how many images there always are; default: any number.
        dtype: `"float16"` stores the kernels in half the space, rounded.
        quantize: `"int8"` computes the convolutions with 8-bit integers, in ONNX and LiteRT, but for
            the classifier and what a backbone of one's own has beside `ConvNorm` layers.
        calibration: images that show what is usual, each looked at once: arrays, PIL images or
            paths, or the path of a folder. A hundred are plenty.
        version: number of a SavedModel below `path`, as TensorFlow Serving wants it: `path/1`.

    Returns:
        The path that was written.

    Raises:
        ValueError: an argument is not one of those above, or does not go with the others.
        ImportError: a package that writes the format is missing; it is named.
        FileExistsError: there is something else at `path`.
        OSError: it cannot be written.

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
    write = _write if keras.backend.backend() == "tensorflow" else _write_in_a_child
    with _place(path, format) as made:
        write(model, made, format, calibration, **options)
    return path


def _write(model, path, format, calibration, *, outputs, image_size, batch_size, dtype, quantize):
    from keras_encnet.export.formats import KEEP_CASTS, WRITERS
    from keras_encnet.export.graph import ImageToLabels, folded
    from keras_encnet.export.quantize import quantized

    options = {}
    if dtype == "float16" and format not in KEEP_CASTS:
        options["half"] = True
    network = folded(model, dtype if format in KEEP_CASTS else "float32")
    graph = ImageToLabels(network, model, outputs)
    if quantize:
        graph = quantized(graph, _calibration(calibration, image_size))
        options["integers"] = True
    shape = (batch_size, *(image_size or (None, None)), 3)
    WRITERS[format](graph, path, shape, classes(model), **options)


def _write_in_a_child(model, path, format, calibration, **options):
    """Saves the model and has a process with TensorFlow export it, by the command line."""
    command = [sys.executable, "-m", "keras_encnet.cli", "export"]
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        preset = pathlib.Path(scratch, "model")
        save_preset(model, preset)
        command += [preset, path, "--format", format]
        for name, value in options.items():
            if value is not None:
                values = value if isinstance(value, (list, tuple)) else [value]
                command += [f"--{name.replace('_', '-')}", *map(str, values)]
        if calibration is not None:
            folder = pathlib.Path(scratch, "calibration")
            folder.mkdir()
            for i, image in enumerate(_calibration(calibration, options["image_size"])):
                Image.fromarray(image).save(folder / f"{i:06}.png")
            command += ["--calibration", folder]
        root = str(pathlib.Path(__file__).resolve().parents[2])
        env = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            # The card, if there is one, is this process's.
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        child = subprocess.run(command, env=env, capture_output=True, text=True)
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["it said nothing"]
        said = [line for line in lines if line.startswith("keras-encnet export: ")] or lines[-5:]
        raise ChildProcessError("\n".join(["Exporting with TensorFlow failed:", *said]))


def classes(model):
    """The names and colours of a model's classes, as lists."""
    return {
        "labels": list(class_names(model.num_classes, model.labels)),
        "palette": class_palette(model.num_classes, model.palette).tolist(),
    }


# === What is asked for ===


def _check(model, format, outputs, image_size, batch_size, dtype):
    if format not in tuple(FORMATS):
        raise ValueError(f"`format` is {format!r}, expected one of {', '.join(map(repr, FORMATS))}.")
    if dtype not in DTYPES:
        pairs = ", ".join(f"{format!r} with {dtype!r}" for format in FORMATS for dtype in DTYPES)
        raise ValueError(f"`dtype` is {dtype!r} for {format!r}; what works is {pairs}.")
    outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
    if outputs == DEFAULT_OUTPUTS and not model.se_head:
        outputs = ("labels",)
    if not outputs or set(outputs) - set(OUTPUTS) or len(set(outputs)) < len(outputs):
        raise ValueError(
            f"`outputs` is {outputs!r}, expected one or more of {', '.join(map(repr, OUTPUTS))}."
        )
    if "presence" in outputs and not model.se_head:
        raise ValueError(
            "`outputs` has 'presence', which the SE head finds, and this model has none "
            "(`se_head=False`); leave it out."
        )
    if image_size is not None and not _sizes(image_size, 2, MIN_SIZE):
        raise ValueError(
            f"`image_size` is {image_size!r}, expected (height, width) of {MIN_SIZE} or more, or None."
        )
    if batch_size is not None and not _sizes([batch_size], 1, 1):
        raise ValueError(f"`batch_size` is {batch_size!r}, expected an integer of 1 or more, or None.")
    return outputs


def _sizes(values, count, least):
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and all(isinstance(value, numbers.Integral) and value >= least for value in values)
        and not any(isinstance(value, bool) for value in values)
    )


def _check_quantization(format, dtype, quantize, calibration):
    if quantize is None:
        if calibration is not None:
            raise ValueError("`calibration` is for `quantize='int8'`, which is not asked for.")
        return
    if quantize != "int8" or format not in QUANTIZED or dtype != "float32":
        raise ValueError(
            f"`quantize={quantize!r}` with format {format!r} and dtype {dtype!r} is not possible; "
            "what works is 'int8' with 'onnx' or 'litert' and 'float32'."
        )
    if not isinstance(calibration, (str, os.PathLike, Iterable)):
        raise ValueError(
            "`quantize='int8'` needs `calibration=`, a folder, or several images of the kind that the "
            f"model will see; it is {calibration!r}."
        )


def _check_packages(format):
    needs = NEEDS.get(format, ())
    for package in ("tensorflow", *needs):
        if not importlib.util.find_spec(package):
            remedy = "keras-encnet[export]" if package in needs else "tensorflow"
            raise ImportError(
                f"Writing {format!r} needs {package}, which is not installed: pip install '{remedy}'",
                name=package,
            )


def _target(path, format, version):
    path = pathlib.Path(path)
    if version is not None:
        if format != "tf_saved_model" or not _sizes([version], 1, 0):
            raise ValueError(
                f"`version` is {version!r} for {format!r}; it is an integer, and for a SavedModel."
            )
        return path / str(version)
    if not path.name:
        raise ValueError(f"`path` is {str(path)!r}, expected the name of what is to be written.")
    suffix = FORMATS[format]
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)


def _calibration(images, image_size):
    """Reads the images one after the other, and resizes them where a size is fixed."""
    if isinstance(images, (str, os.PathLike)):
        folder = pathlib.Path(images)
        images = sorted(file for file in folder.glob("*") if file.suffix.lower() in PICTURES)
        if not images:
            raise ValueError(
                f"`calibration` is {str(folder)!r}, where there are no images ({', '.join(PICTURES)})."
            )
    count = 0
    for count, image in enumerate(images, 1):
        image = read_image(image)
        if image_size:
            image = resize_image(image, *image_size)
        if min(image.shape[:2]) < MIN_SIZE:
            raise ValueError(
                f"Image {count} of `calibration` is {image.shape[0]}×{image.shape[1]} pixels "
                f"(height×width), expected {MIN_SIZE} or more on both sides."
            )
        yield image
    if not count:
        raise ValueError("`calibration` holds no images.")


# === Where it goes ===


def _place(path, format):
    """A context that gives the path to write to, whose content replaces `path` if all goes well."""
    if format == "tf_saved_model":
        return replacing_directory(path, "SavedModel", "saved_model.pb")
    if path.is_dir():
        raise FileExistsError(f"{path} is a directory. Choose another name for the file.")
    # OpenVINO's weights, `.bin`, are moved before the graph that reads them, `.xml`.
    return replacing(path)
