"""Each format's own runtime behind one call, for checks and measurements."""

import os
import pathlib

import numpy as np

from keras_encnet.data.checks import MIN_SIZE


def open_export(path, threads=None, precision="f32"):
    """Loads an exported file in the runtime that it is for.

    Args:
        path: a SavedModel's directory, `.onnx`, `.tflite` or `.xml`.
        threads: processor threads to use; default: the runtime's choice.
        precision: OpenVINO's: `"f32"`, or `"bf16"`, which it would choose itself where it is fast.

    Returns:
        Function from `uint8` `images` `(batch, height, width, 3)` to a dictionary of arrays.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if its suffix is none of these.
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
                f"{path.name!r} is no exported model: expected the directory of a SavedModel, .onnx, "
                ".tflite or .xml."
            )
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise ImportError(
            f"Running {path.name!r} needs {package}, which is not installed: "
            "pip install 'keras-encnet[export]'",
            name=package,
        ) from error
    # Runtimes say in ways of their own that a side is free.
    return _checked(run, [side if isinstance(side, int) and side > 0 else None for side in shape])


def _checked(run, taken):
    """`run`, for images of the shape `taken`, in which `None` is any side."""
    wanted = ", ".join(str(side or "any") for side in taken)

    def call(images):
        images = np.asarray(images)
        shape = images.shape
        if images.dtype != "uint8" or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(
                f"`images` is {images.dtype} of shape {shape}, expected uint8 of shape (batch, height, "
                "width, 3). For a single image add an axis: images[None]."
            )
        if min(shape[1:3]) < MIN_SIZE:
            raise ValueError(
                f"`images` are {shape[1]}×{shape[2]} pixels (height×width), expected {MIN_SIZE} or "
                "more on both sides."
            )
        # Not every runtime looks, and some answer for images of the size that they expect.
        if any(side not in (None, given) for side, given in zip(taken, shape, strict=True)):
            raise ValueError(
                f"`images` is of shape {shape}, and the file was exported for ({wanted}). Resize them, "
                "or export the model without `image_size` and `batch_size`."
            )
        return run(images)

    return call


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    run = loaded.signatures["serving_default"]

    def call(images):
        return {name: value.numpy() for name, value in run(images=tf.constant(images)).items()}

    # Its functions live as long as what they were loaded with.
    call.loaded = loaded
    return call, run.structured_input_signature[1]["images"].shape.as_list()


def _onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (input,) = session.get_inputs()

    def call(images):
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return call, input.shape


def _litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    # Its own choice would be a single one.
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
