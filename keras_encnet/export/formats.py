"""One function a format, on Keras's own exporters: the graph, and what they leave out of it.

Each takes an `ImageToLabels`, where to write, the shape of `images` (`None` where it is free) and the
classes' names and colours.
"""

import itertools
import json
import pathlib
import re
import tempfile
import zipfile

import keras
import numpy as np

from keras_encnet.data.checks import MIN_SIZE
from keras_encnet.export.graph import ImageToLabels
from keras_encnet.export.labels import argmax_of_last_axis
from keras_encnet.export.quantize import store_integers

LARGE = 1024  # values of a weight that is worth halving


def write_saved_model(graph, directory, shape, classes):
    import tensorflow as tf

    from keras_encnet.export.image_bytes import label_png_from_bytes

    # Of a shape that is known whole TensorFlow would not look at what it is given.
    images = [tf.TensorSpec((None, *shape[1:]), "uint8", name="images")]
    labels = ImageToLabels(graph.network, graph, ["labels"])
    logits = ImageToLabels(graph.network, graph, ["logits"])
    from_bytes = label_png_from_bytes(lambda images: labels(images)["labels"])
    names = tf.constant(classes["labels"])
    colours = tf.constant(classes["palette"], "uint8")

    def checked(graph):
        def call(images):
            with tf.control_dependencies([_assert_shape(images, shape)]):
                images = tf.identity(images)
            images.set_shape(shape)
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
    """An operation that fails, with a message that a server passes on, for images of another shape."""
    import tensorflow as tf

    found = tf.shape(images)
    # Zeros make a shape of any rank as long as another.
    sides = tf.concat([found, [0] * 4], axis=0)[:5]
    least = [*(side or low for side, low in zip(shape, (1, MIN_SIZE, MIN_SIZE, 3), strict=True)), 0]
    most = [*(side or tf.int32.max for side in shape), 0]
    named = zip(shape, ("batch", "height", "width", "3"), strict=True)
    wanted = ", ".join(str(side or name) for side, name in named)
    message = (
        f"`images` must be one or more, ({wanted}), of {MIN_SIZE} pixels or more on both sides; "
        "their shape is:"
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
        # The presence has two axes, everything else at least three.
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

    graph.argmax = argmax_of_last_axis
    # Operations of TensorFlow itself would need a runtime that few have.
    builtins = [tf.lite.OpsSet.TFLITE_BUILTINS]
    options, spec = {}, {"supported_ops": builtins}
    if half or integers:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if half:
        spec["supported_types"] = [tf.float16]
    _export(graph, path, "litert", shape, target_spec=spec, **options)
    # As LiteRT's own metadata tools do: what follows the model is a zip archive.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "\n".join(classes["labels"]))
        archive.writestr("labels.json", json.dumps(classes))


def write_openvino(graph, path, shape, classes):
    import openvino

    # Each operation has memory of its own, even in a loop.
    graph.thinner_strips = 2
    with tempfile.TemporaryDirectory() as scratch:
        raw = pathlib.Path(scratch, "raw.xml")
        _export(graph, raw, "openvino", shape)
        model = openvino.Core().read_model(raw)
        for output in model.outputs:
            # The exporter leaves names of operations beside the one that was given.
            output.tensor.set_names(output.names & set(graph.wanted))
        for key, value in classes.items():
            model.set_rt_info(json.dumps(value), ["model_info", key])
        openvino.save_model(model, path, compress_to_fp16=False)


# Whose runtimes keep a float16 constant with a cast behind it as it is in the graph.
KEEP_CASTS = ("tf_saved_model", "openvino")
WRITERS = {
    "tf_saved_model": write_saved_model,
    "onnx": write_onnx,
    "litert": write_litert,
    "openvino": write_openvino,
}


def _export(graph, path, format, shape, **options):
    graph.constant_weights = True
    signature = [keras.InputSpec("uint8", shape, name="images")]
    graph.export(str(path), format, verbose=False, input_signature=signature, **options)


# === TensorFlow Serving ===


def _write_warm_up(directory, shape):
    """Requests that TensorFlow Serving runs before it says that the model is ready."""
    import tensorflow as tf

    image = np.zeros([side or default for side, default in zip(shape, (1, 512, 512, 3), strict=True)])
    png = tf.io.encode_png(tf.zeros((64, 64, 3), "uint8")).numpy()
    extra = directory / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        file.write(_predict_log("serving_default", "images", image.astype("uint8")))
        file.write(_predict_log("from_bytes", "image_bytes", np.array([png])))


def _predict_log(signature, name, value):
    """A `PredictionLog` of TensorFlow Serving's, whose messages are a package of their own."""
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
    """Stores large weights in float16, each with a cast behind it, in loops too."""
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
    """Takes the scopes of loops, most of what the exporter calls things in them, away from names."""
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
