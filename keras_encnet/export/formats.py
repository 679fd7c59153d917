"""One function per format, on Keras's own exporters: the graph, and what the exporters leave out.

Each takes an `ImageToLabels`, the path to write to, the shape of `images` (`None` for a side of any
length) and the names and colours of the classes. `FORMATS` is the table of formats.
"""

import itertools
import json
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_encnet.data.conventions import MIN_SIZE
from keras_encnet.export.graph import ImageToLabels, Runtime
from keras_encnet.export.labels import argmax_of_last_axis
from keras_encnet.export.quantize import store_integers

LARGE = 1024  # values: smaller weights stay in float32


def write_saved_model(graph, directory, shape, classes):
    import tensorflow as tf

    from keras_encnet.export.image_bytes import label_png_from_bytes

    # With a fully static shape TensorFlow skips its input check.
    images = [tf.TensorSpec((None, *shape[1:]), "uint8", name="images")]
    labels = ImageToLabels(graph.network, graph, ["labels"], graph.runtime)
    logits = ImageToLabels(graph.network, graph, ["logits"], graph.runtime)
    from_bytes = label_png_from_bytes(lambda images: labels(images)["labels"])
    names = tf.constant(classes["labels"])
    colours = tf.constant(classes["palette"], "uint8")

    def checked(graph):
        def call(images):
            with tf.control_dependencies([_assert_shape(images, shape)]):
                images = tf.identity(images)
            # Not the number of images: TensorFlow would leave the check out of a static graph.
            images.set_shape((None, *shape[1:]))
            return graph(images)

        return call

    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", checked(graph), images)
    archive.add_endpoint("serving_default", checked(graph), images)
    archive.add_endpoint("logits", checked(logits), images)
    archive.add_endpoint(
        "from_bytes", from_bytes, [tf.TensorSpec([None], "string", name="image_bytes")]
    )
    archive.add_endpoint("classes", lambda: {"labels": names, "palette": colours}, [])
    archive.write_out(str(directory), verbose=False)
    _write_warm_up(directory, shape)


def _assert_shape(images, shape):
    """An operation that fails for images of another shape; a server passes its message on."""
    import tensorflow as tf

    found = tf.shape(images)
    # Zeros make shapes of any rank equally long.
    sides = tf.concat([found, [0] * 4], axis=0)[:5]
    least = [*(side or low for side, low in zip(shape, (1, MIN_SIZE, MIN_SIZE, 3), strict=True)), 0]
    most = [*(side or tf.int32.max for side in shape), 0]
    named = zip(shape, ("batch", "height", "width", "3"), strict=True)
    wanted = ", ".join(str(side or name) for side, name in named)
    message = (
        f"`images` must have shape ({wanted}), with one or more images of {MIN_SIZE} pixels or more on "
        "both sides. Received shape:"
    )
    fits = tf.reduce_all((sides >= least) & (sides <= most))
    return tf.debugging.Assert(fits, [message, found])


def write_onnx(graph, path, shape, classes, half=False, integers=False):
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        raw = pathlib.Path(scratch, "raw.onnx")
        _export(graph, raw, "onnx", shape)
        model = onnx.load(raw)
    sides = ("batch", "height", "width")
    for value in (*model.graph.input, *model.graph.output):
        # Presence has two axes, every other output at least three.
        for side, dim in zip(sides, value.type.tensor_type.shape.dim, strict=False):
            if dim.dim_param and (side == "batch" or len(value.type.tensor_type.shape.dim) > 2):
                dim.dim_param = side
    for key, value in classes.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    if half:
        _halve_onnx(model.graph)
    if integers:
        store_integers(model.graph)
    _shorten_names(model.graph)
    onnx.save(model, path)


def write_litert(graph, path, shape, classes, half=False, integers=False):
    import tensorflow as tf

    # Not by `graph.export`, which takes no shapes in Keras 3.13.
    archive = keras.export.ExportArchive()
    archive.track(graph)
    images = tf.TensorSpec(shape, "uint8", name="images")
    archive.add_endpoint("serve", lambda images: graph(images), [images])
    with tempfile.TemporaryDirectory() as scratch:
        archive.write_out(scratch, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch)
        # TensorFlow's own operations would need a runtime that few have.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if half or integers:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if half:
            converter.target_spec.supported_types = [tf.float16]
        pathlib.Path(path).write_bytes(converter.convert())
    # As LiteRT's own metadata tools do, a zip archive follows the model.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "\n".join(classes["labels"]))
        archive.writestr("labels.json", json.dumps(classes))


def write_openvino(graph, path, shape, classes):
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        raw = pathlib.Path(scratch, "raw.xml")
        _export(graph, raw, "openvino", shape)
        model = openvino.Core().read_model(raw)
        for output in model.outputs:
            # The exporter adds names of operations to the given one.
            output.tensor.set_names(output.names & set(graph.wanted))
        for key, value in classes.items():
            model.set_rt_info(json.dumps(value), ["model_info", key])
        openvino.save_model(model, path, compress_to_fp16=False)


class Format(NamedTuple):
    """A format that a model can be exported in.

    - `write`: the function that writes it.
    - `suffix`: of the file; a SavedModel is a directory.
    - `packages`: the packages that writing needs in addition to TensorFlow.
    - `runtime`: what its runtime needs of the graph.
    - `keeps_casts`: whether the runtime keeps a float16 constant and its cast as they are in the
      graph. Otherwise half precision is stored by `write`, with `half=True`.
    - `quantizes`: whether it can be written in 8-bit integers, with `integers=True`.
    """

    write: Callable
    suffix: str
    packages: tuple
    runtime: Runtime
    keeps_casts: bool
    quantizes: bool


FORMATS = {
    "tf_saved_model": Format(
        write_saved_model,
        suffix="",
        packages=(),
        runtime=Runtime(),
        keeps_casts=True,
        quantizes=False,
    ),
    "onnx": Format(
        write_onnx,
        suffix=".onnx",
        packages=("onnx", "tf2onnx"),
        runtime=Runtime(constant_weights=True),
        keeps_casts=False,
        quantizes=True,
    ),
    "litert": Format(
        write_litert,
        suffix=".tflite",
        packages=(),
        runtime=Runtime(constant_weights=True, argmax=argmax_of_last_axis),
        keeps_casts=False,
        quantizes=True,
    ),
    "openvino": Format(
        write_openvino,
        suffix=".xml",
        # SciPy: Keras's exporter imports it.
        packages=("openvino", "scipy"),
        # Each operation has its own memory, even in a loop: less at once.
        runtime=Runtime(constant_weights=True, strip=1 << 20, blocks=16),
        keeps_casts=True,
        quantizes=False,
    ),
}


def _export(graph, path, format, shape, **options):
    signature = [keras.InputSpec("uint8", shape, name="images")]
    graph.export(str(path), format, verbose=False, input_signature=signature, **options)


# === TensorFlow Serving ===


def _write_warm_up(directory, shape):
    """Requests that TensorFlow Serving runs before it reports the model as ready."""
    import tensorflow as tf

    image = np.zeros([side or default for side, default in zip(shape, (1, 512, 512, 3), strict=True)])
    png = tf.io.encode_png(tf.zeros((64, 64, 3), "uint8")).numpy()
    extra = directory / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        file.write(_predict_log("serving_default", "images", image.astype("uint8")))
        file.write(_predict_log("from_bytes", "image_bytes", np.array([png])))


def _predict_log(signature, name, value):
    """A `PredictionLog` of TensorFlow Serving, written by hand: its messages need another package."""
    import tensorflow as tf

    tensor = tf.make_tensor_proto(value).SerializeToString()
    model_spec = _field(3, signature.encode())
    request = _field(1, model_spec) + _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number, content):
    """A field of a protocol buffer that holds bytes."""
    length, size = [], len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


# === ONNX ===


def _halve_onnx(graph):
    """Stores large weights in float16, each followed by a cast, also inside loops."""
    from onnx import helper, numpy_helper

    casts = []
    for tensor in list(graph.initializer):
        value = numpy_helper.to_array(tensor)
        if value.dtype == "float32" and value.ndim > 1 and value.size >= LARGE:
            stored = numpy_helper.from_array(value.astype("float16"), f"{tensor.name}_float16")
            graph.initializer.remove(tensor)
            graph.initializer.append(stored)
            casts.append(helper.make_node("Cast", [stored.name], [tensor.name], to=1))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _halve_onnx(attribute.g)
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _shorten_names(graph):
    """Removes the scopes of loops from names, of which they are the larger part."""
    names, taken = {}, set()

    def short(name):
        if name not in names:
            new = brief = re.sub(r"^(.*[/_])?while(_\d+)?[/_]", "", name)
            others = itertools.count(1)
            while new in taken:
                new = f"{brief}.{next(others)}"
            names[name] = new
            taken.add(new)
        return names[name]

    def rename(graph):
        for thing in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            thing.name = short(thing.name)
        for node in graph.node:
            node.name = short(node.name)
            node.input[:] = map(short, node.input)
            node.output[:] = map(short, node.output)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    rename(attribute.g)

    rename(graph)
