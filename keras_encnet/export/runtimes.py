"""The runtimes of each format, all behind one call, for checks and measurements.

As a program this runs an exported file, with the job as JSON on standard input. `verify` does so, since
a file may crash its runtime. It imports nothing of this package, which would bring Keras.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MIN_SIZE = 32  # as in `data.conventions`


def open_export(
    path: str | os.PathLike, threads: int | None = None, precision: str = "f32"
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads an exported file in its own runtime.

    Args:
        path: a SavedModel's directory, `.onnx`, `.tflite` or `.xml`.
        threads: processor threads to use; default: the runtime's choice. Not for a SavedModel.
        precision: for OpenVINO, `"f32"` or `"bf16"`, which it would choose itself where that is fast.

    Returns:
        A function from `uint8` `images` `(batch, height, width, 3)` to a dict of arrays.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if its suffix is not one of these, or another argument does not go with it.
        ImportError: if the runtime is not installed.
    """
    return open_in(runtimes_of(path)[0], path, threads, precision)


def runtimes_of(path: str | os.PathLike) -> list[str]:
    """The names of the runtimes, in `RUNTIMES`, that run an exported file; the usual one first.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if its suffix is not that of an exported file.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no exported model {str(path)!r}.")
    suffix = "" if path.is_dir() else path.suffix
    names = [name for name, row in RUNTIMES.items() if row.suffix == suffix]
    if not names or (path.is_file() and not suffix):
        raise ValueError(
            "`path` must be an exported model: the directory of a SavedModel, or a file that ends "
            f"in .onnx, .tflite or .xml. Received: {path.name!r}"
        )
    return names


def open_in(
    name: str, path: str | os.PathLike, threads: int | None = None, precision: str = "f32"
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """`open_export` in the runtime `name`, one of `RUNTIMES`."""
    path, row = pathlib.Path(path), RUNTIMES[name]
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"`threads` must be an integer of 1 or more, or None. Received: {threads!r}")
    if precision not in (("f32", "bf16") if name == "openvino" else ("f32",)):
        raise ValueError(
            f"`precision` must be 'f32', or for OpenVINO 'bf16'. Received: {precision!r} for "
            f"{path.name!r}"
        )
    try:
        run, shape = row.load(path, threads, precision)
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise ImportError(
            f"Running {path.name!r} needs {package}, which is not installed: pip install {row.package}",
            name=package,
        ) from error
    # Each runtime has its own mark for a side of any length.
    return _checked(run, [side if isinstance(side, int) and side > 0 else None for side in shape])


def version_of(name: str) -> str | None:
    """A runtime's name with its version, such as `"ai_edge_litert 2.3.0"`; `None` if not installed."""
    row = RUNTIMES[name]
    # Packages of other names hold the same module: `tensorflow-cpu`, `onnxruntime-gpu`.
    packages = importlib.metadata.packages_distributions().get(row.package.replace("-", "_"))
    if packages and name == "tf.lite" and not _has_tf_lite():
        return None
    return row.title.format(importlib.metadata.version(packages[0])) if packages else None


def _has_tf_lite():
    """TensorFlow announces that `tf.lite` will leave it for `ai_edge_litert`."""
    import tensorflow as tf

    return hasattr(getattr(tf, "lite", None), "Interpreter")


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
        if min(shape[1:3]) < MIN_SIZE:
            raise ValueError(
                f"`images` must have {MIN_SIZE} pixels or more on both sides. "
                f"Received: {shape[1]}×{shape[2]} (height×width). Enlarge them."
            )
        # Not every runtime checks, and some compute something for images of another size.
        if any(side not in (None, given) for side, given in zip(expected, shape, strict=True)):
            raise ValueError(
                f"`images` must have shape ({wanted}), for which the file was exported. "
                f"Received: {shape}. Resize them, or export without `image_size` and `batch_size`."
            )
        return run(images)

    return call


def _saved_model(path, threads, precision):
    import tensorflow as tf

    if threads is not None:
        raise ValueError(
            f"`threads` must be None for a SavedModel. Received: {threads}. The threads of TensorFlow "
            "are those of its process: tf.config.threading."
        )
    loaded = tf.saved_model.load(str(path))
    run = loaded.signatures["serving_default"]

    def call(images):
        return {name: value.numpy() for name, value in run(images=tf.constant(images)).items()}

    # The functions need the loaded object to stay alive.
    call.loaded = loaded
    return call, run.structured_input_signature[1]["images"].shape.as_list()


def _onnx(path, threads, precision):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (images,) = session.get_inputs()

    def call(images):
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return call, images.shape


def _litert(path, threads, precision):
    from ai_edge_litert.interpreter import Interpreter

    return _interpreted(Interpreter, path, threads)


def _tf_lite(path, threads, precision):
    import tensorflow as tf

    return _interpreted(tf.lite.Interpreter, path, threads)


def _interpreted(interpreter, path, threads):
    # The default is one thread.
    run = interpreter(str(path), num_threads=threads or os.cpu_count()).get_signature_runner()
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


class Runner(NamedTuple):
    """A runtime of exported files.

    - `suffix`: of the files; a SavedModel is a directory.
    - `package`: the package that holds it, as pip calls it.
    - `title`: its name in reports, with `{}` for the package's version.
    - `load`: a function of path, threads and precision, which returns a function of images, and the
      shape of the images that it takes.
    """

    suffix: str
    package: str
    title: str
    load: Callable


# The first one with a suffix is the usual one for it.
RUNTIMES = {
    "tensorflow": Runner("", "tensorflow", "TensorFlow {}", _saved_model),
    "onnxruntime": Runner(".onnx", "onnxruntime", "ONNX Runtime {}", _onnx),
    "ai_edge_litert": Runner(".tflite", "ai-edge-litert", "ai_edge_litert {}", _litert),
    "tf.lite": Runner(".tflite", "tensorflow", "tf.lite (TensorFlow {})", _tf_lite),
    "openvino": Runner(".xml", "openvino", "OpenVINO {}", _openvino),
}


# === As a program ===


def main():
    job, results = json.load(sys.stdin), {}
    try:
        run = open_in(job["runtime"], job["path"])
        with np.load(job["images"]) as batches:
            for i in range(len(batches.files)):
                found = run(batches[str(i)])
                results |= {f"{i}/{name}": value[0] for name, value in found.items()}
            results["seconds"] = [_seconds(run, batches["0"]) for _ in range(job["runs"])]
    except ValueError as error:
        results = {"error": str(error)}
    np.savez(job["results"], **results)


def _seconds(run, batch):
    start = time.perf_counter()
    run(batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
