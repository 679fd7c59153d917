"""8-bit files: integer convolutions, a quarter of the size, nearly the same labels."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_encnet import EncNet
from keras_encnet.data import Pairs, batches
from keras_encnet.demo.drawing import scenes
from keras_encnet.export import open_export, verify
from keras_encnet.export.export import _calibration
from keras_encnet.export.graph import ImageToLabels, folded
from keras_encnet.export.quantize import Rounding, kernel_steps, quantized
from keras_encnet.layers import ConvNorm

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow writes the formats", allow_module_level=True)
for package in ("tf2onnx", "onnxruntime", "ai_edge_litert"):
    pytest.importorskip(package)
onnx = pytest.importorskip("onnx")

SEEN, UNSEEN = scenes(24, seed=0, size=(96, 128)), scenes(4, seed=1, size=(96, 128))
WINDOWS = {"window": 64, "stride": 48}
CONVOLUTIONS = 8  # in the network below, two of them in its head; the classifier is not among them


@pytest.fixture(scope="module")
def model():
    """Random features with a least-squares classifier of street scenes."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((None, None, 3))
    shallow = ConvNorm(16, 3, strides=2, name="conv1")(pixels)
    x = ConvNorm(32, 3, strides=2, name="conv2")(shallow)
    y = ConvNorm(64, 3, strides=2, name="conv3")(x)
    y = ConvNorm(64, 3, dilation_rate=2, relu=False, name="conv4")(y)
    x = ConvNorm(64, 1, strides=2, relu=False, name="shortcut")(x)
    x = keras.layers.ReLU(name="relu")(keras.layers.Add(name="sum")([x, y]))
    deep = ConvNorm(64, 3, dilation_rate=2, name="conv5")(x)
    model = EncNet(keras.Model(pixels, [shallow, deep]), 9, head_channels=64, num_codes=4)
    for layer in (model.backbone.get_layer("conv3"), model.get_layer("bottleneck")):
        # As weight decay leaves some channels: a tiny kernel and a normal bias.
        layer.gamma.assign([1e-9] + 63 * [1])
        layer.beta.assign([2] + 63 * [0])

    features = keras.Model(model.inputs, model.get_layer("gate_relu").output)
    images, masks = (np.stack(side) for side in zip(*SEEN, strict=True))
    x = features.predict(images, verbose=0).reshape(-1, 64)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    answers = np.linalg.lstsq(x, 10 * np.eye(9)[masks[:, 4::8, 4::8].ravel()], rcond=None)[0]
    model.get_layer("pixel_logits").set_weights([answers[None, None, :-1], answers[-1]])
    return model


def photos():
    return [SEEN[i][0] for i in range(8)]


def agreement(model, label):
    """The fraction of pixels of unseen images with the model's label."""
    return np.mean([label(image) == model.segment(image).label_map for image, _ in UNSEEN])


def test_the_model_is_better_than_chance(model):
    assert np.mean([model.segment(image).label_map == mask for image, mask in UNSEEN]) > 0.4


@pytest.mark.parametrize(
    "format, size, evaluation",
    [
        ("onnx", None, None),
        pytest.param("onnx", (96, 128), WINDOWS, marks=pytest.mark.slow),
        ("litert", None, WINDOWS),
        pytest.param("litert", (96, 128), None, marks=pytest.mark.slow),
    ],
)
def test_nearly_all_labels_are_the_models(model, format, size, evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "evaluation", evaluation)
    path = model.export(
        tmp_path / "model", format, quantize="int8", calibration=photos(), image_size=size
    )
    run = open_export(path)
    assert agreement(model, lambda image: run(image[None])["labels"][0]) > 0.97
    # A quarter of the weights, and the graph, which is large compared with so small a network. Half
    # precision would take more.
    weights = sum(4 * np.prod(x.shape) for x in model.coarse_network().weights)
    assert path.stat().st_size < weights / 4 + 120_000 < weights / 2

    image = UNSEEN[0][0]
    found = run(image[None])
    assert {name: x.dtype for name, x in found.items()} == {"labels": "uint8", "presence": "float32"}
    assert found["labels"].shape == (1, 96, 128)
    np.testing.assert_allclose(found["presence"][0], model.segment(image).presence, atol=0.1)
    if format == "litert":
        assert verify(model, path, [image], runs=1).labels > 0.95
    if format == "onnx":
        assert convolutions(onnx.load(path).graph) == (CONVOLUTIONS, CONVOLUTIONS + 1)


def convolutions(graph):
    """The number of convolutions with 8-bit kernels in an ONNX graph, loops included, and of all."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    sources = {node.output[0]: node.input[0] for node in graph.node if node.input}
    kernels = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    integers = sum(types.get(sources.get(kernel)) == onnx.TensorProto.INT8 for kernel in kernels)
    loops = [x.g for node in graph.node for x in node.attribute if x.HasField("g")]
    counts = [(integers, len(kernels)), *map(convolutions, loops)]
    return tuple(map(sum, zip(*counts, strict=True)))


def test_ranges_are_those_of_the_images(model):
    images = [np.full((32, 40, 3), value, "uint8") for value in (10, 200)]
    graph = quantized(ImageToLabels(folded(model), model, ["labels"]), images)
    backbone = next(x for x in graph.network.layers if isinstance(x, keras.Model))
    rounding = next(x for x in backbone.layers if isinstance(x, Rounding))
    # The input of the first convolution is normalized.
    low, high = (10 - 123.675) / 58.395, (200 - 103.53) / 57.375
    assert rounding.step == pytest.approx((high - low) / 255)
    # Zero must be a step, so the range shifts by up to half a step.
    np.testing.assert_allclose(rounding.range, (low, high), atol=rounding.step / 2)
    steps = rounding.range[0] / rounding.step
    assert steps == pytest.approx(round(steps))


def test_calibration_images_matter(model):
    graph = ImageToLabels(folded(model), model, ["labels"])
    usual, dark = (quantized(graph, images) for images in (photos(), [np.zeros((96, 128, 3), "uint8")]))
    assert agreement(model, lambda image: usual(image[None])["labels"][0]) > 0.97
    assert agreement(model, lambda image: dark(image[None])["labels"][0]) < 0.9


def test_steps_of_kernels():
    kernel = np.array([[127, 3, 1e-9], [-254, 1, 0]], "float32")
    steps = kernel_steps(kernel, np.array([5, 0, 2]), 0.5, axis=0)
    # In steps of 1e-9 / 127 the last bias would be 5e11 steps.
    np.testing.assert_allclose(steps, [2, 3 / 127, 2 / 0.5 / 2**30], rtol=1e-6)


# === Images for calibration ===


def test_a_folder_or_a_list_of_paths_and_arrays(tmp_path):
    images = photos()[:2]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    for given in (tmp_path, str(tmp_path), images, [tmp_path / "0.png", images[1]], iter(images)):
        np.testing.assert_array_equal(list(_calibration(given, None)), images)
    assert [image.shape for image in _calibration(tmp_path, (40, 50))] == [(40, 50, 3)] * 2


def test_hidden_files_are_left_out_and_globs_are_expanded(tmp_path):
    (tmp_path / "._0.jpg").write_bytes(b"\0\5\x16\7")  # as macOS adds it
    for name in ("0.png", "1.jpg"):
        Image.new("RGB", (40, 32), (9, 9, 9)).save(tmp_path / name)
    for given, count in ((tmp_path, 2), (f"{tmp_path}/*.png", 1), (tmp_path / "0.png", 1)):
        assert [image.shape for image in _calibration(given, None)] == [(32, 40, 3)] * count


def test_images_of_pairs_batches_and_datasets():
    import tensorflow as tf

    images = photos()[:3]
    pairs = Pairs([(image, image[..., 0] * 0) for image in images])
    stack = np.stack(images)
    for given in (
        pairs,
        list(pairs),
        batches(pairs, size=None, batch_size=2),
        stack,
        [stack[:2], images[2]],
        tf.data.Dataset.from_tensor_slices((stack, stack[..., 0])),
        tf.data.Dataset.from_tensor_slices((stack, stack[..., 0])).batch(2),
    ):
        np.testing.assert_array_equal(list(_calibration(given, None)), images)


def test_calibration_images_in_0_to_1_are_warned_of():
    with pytest.warns(UserWarning, match=r"look scaled to \[0, 1\]"):
        list(_calibration([photos()[0] / 255], None))


@pytest.mark.parametrize(
    "calibration, words",
    [
        ([], "must hold one or more images"),
        ([np.full((64, 64, 3), np.nan)], "Image 1 of `calibration` cannot be used.*NaN"),
        ([np.full((64, 64, 3), 300.0)], "Image 1 of `calibration` cannot be used.*300"),
        ([{"image": 1}], "Image 1 of `calibration` cannot be used.*dict"),
        (np.zeros((64, 64, 3), "uint8"), r"several images.*an array of shape \(64, 64, 3\)"),
        (
            [np.zeros((64, 31, 3), "uint8")],
            "Image 1 of `calibration` must have 32 pixels or more.*64×31",
        ),
    ],
)
def test_invalid_calibration_images_are_named(model, calibration, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        model.export(tmp_path / "model", "onnx", quantize="int8", calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_a_calibration_folder_that_is_not_there_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="'nowhere'"):
        model.export(tmp_path / "model", "onnx", quantize="int8", calibration="nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "format, dtype",
    [
        ("tf_saved_model", "float32"),
        ("openvino", "float32"),
        ("onnx", "float16"),
        ("litert", "float16"),
    ],
)
def test_unsupported_formats_and_dtypes_are_refused(model, format, dtype, tmp_path):
    with pytest.raises(
        ValueError, match=f"must be 'int8', with .*'onnx' or 'litert'.*{format}.*{dtype}"
    ):
        model.export(tmp_path / "m", format, dtype=dtype, quantize="int8", calibration=photos())
