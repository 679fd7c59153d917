"""The runtime of each format, all behind one call, for checks and measurements."""

import os
import pathlib
from collections.abc import Callable

import numpy as np

from keras_encnet.data.conventions import check_image_size


def open_export(
    path: str | os.PathLike, threads: int | None = None, precision: str = "f32"
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads an exported file in its own runtime.

    Args:
        path: a SavedModel's directory, `.onnx`, `.tflite` or `.xml`.
        threads: processor threads to use; default: the runtime's choice.
        precision: for OpenVINO, `"f32"` or `"bf16"`, which it would choose itself where that is fast.

    Returns:
        A function from `uint8` `images` `(batch, height, width, 3)` to a dict of arrays.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if its suffix is not one of these.
        ImportError: if the runtime is not installed.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no exported model {str(path)!r}.")
    try:
        if path.is_dir():
            run, shape = _saved_model(path)
        elif path.suffix == ".onnx":
            run, shape = _onnx(path, threads)
        elif path.suffix == ".tflite":
            run, shape = _litert(path, threads)
        elif path.suffix == ".xml":
            run, shape = _openvino(path, threads, precision)
        else:
            raise ValueError(
                "`path` must be an exported model: the directory of a SavedModel, or a file that ends "
                f"in .onnx, .tflite or .xml. Received: {path.name!r}"
            )
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise ImportError(
            f"Running {path.name!r} needs {package}, which is not installed: "
            "pip install 'keras-encnet[export]'",
            name=package,
        ) from error
    # Each runtime has its own mark for a side of any length.
    return _checked(run, [side if isinstance(side, int) and side > 0 else None for side in shape])


def _checked(run, expected):
    """`run`, after a check that images have the shape `expected`, where `None` is any length."""
    wanted = ", ".join(str(side or "any") for side in expected)

    def call(images):
        images = np.asarray(images)
        shape = images.shape
        if images.dtype != "uint8" or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(
                "`images` must be uint8 of shape (batch, height, width, 3), images[None] for a single "
                f"image. Received: {images.dtype} of shape {shape}"
            )
        check_image_size(*shape[1:3], "`images`")
        # Not every runtime checks, and some compute something for images of another size.
        if any(side not in (None, given) for side, given in zip(expected, shape, strict=True)):
            raise ValueError(
                f"`images` must have shape ({wanted}), for which the file was exported. "
                f"Received: {shape}. Resize them, or export without `image_size` and `batch_size`."
            )
        return run(images)

    return call


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    run = loaded.signatures["serving_default"]

    def call(images):
        return {name: value.numpy() for name, value in run(images=tf.constant(images)).items()}

    # The functions need the loaded object to stay alive.
    call.loaded = loaded
    return call, run.structured_input_signature[1]["images"].shape.as_list()


def _onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (images,) = session.get_inputs()

    def call(images):
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return call, images.shape


def _litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    # LiteRT's default is one thread.
    threads = threads or os.cpu_count()
    run = Interpreter(str(path), num_threads=threads).get_signature_runner()
    shape = run.get_input_details()["images"]["shape_signature"].tolist()
    return lambda images: run(images=images), shape


def _openvino(path, threads, precision):
    import openvino

    config = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", config)

    def call(images):
        results = compiled(images)
        return {output.get_any_name(): results[output] for output in compiled.outputs}

    shape = compiled.input().get_partial_shape()
    return call, [side.is_static and side.get_length() for side in shape]
