"""The exported graph before conversion to a format: it gives the results of `segment`."""

from pathlib import Path

import keras
import numpy as np
import pytest

from golden.weights import image
from keras_encnet import EncNet
from keras_encnet.data.resizing import resize_image
from keras_encnet.inference.geometry import Axis, axes_of, evaluation_rule
from models import classes_in, tiny

if keras.backend.backend() != "tensorflow":
    pytest.skip("the graph is TensorFlow's", allow_module_level=True)

import tensorflow as tf

from keras_encnet.export import labels
from keras_encnet.export.graph import ImageToLabels, Runtime, _resize_image, folded

# Images as OpenCV resizes them.
GOLDEN = np.load(Path(__file__).parents[1] / "inference" / "golden.npz")

EVALUATIONS = {
    "whole": None,
    "resized": {"resize": [160, 80]},
    "small windows": {"window": 48},
    "many windows": {"window": [32, 40], "stride": [9, 13]},
    "resized and windows": {"resize": [200, 120], "window": [48, 64], "stride": [30, 41]},
    "encoding": {"resize": 100, "window": 64, "stride": 42, "protocol": "pytorch-encoding"},
    "encoding, whole": {"resize": 100, "protocol": "pytorch-encoding"},
    "encoding, not resized": {"window": 48, "protocol": "pytorch-encoding"},
}
SIZES = (97, 131), (64, 70), (120, 48)


def traced(graph, size=(None, None), batch=None):
    spec = tf.TensorSpec((batch, *size, 3), "uint8")
    return tf.function(graph, input_signature=[spec], autograph=False)


@pytest.fixture(scope="module", params=[False, True], ids=["corners", "aligned"])
def built(request):
    return tiny(align_corners=request.param)


@pytest.fixture
def model(built):
    built.evaluation = None
    return built


@pytest.mark.parametrize("name", EVALUATIONS)
def test_labels_presence_and_confidence_are_those_of_segment(model, name, monkeypatch):
    monkeypatch.setattr(labels, "TILE", 29)
    model.evaluation = EVALUATIONS[name]
    network, functions = folded(model), {}
    # Several strips and a single one.
    for strip, outputs in ((20_000, ["labels", "presence", "confidence"]), (1 << 22, ["labels"])):
        graph = ImageToLabels(network, model, outputs, Runtime(strip=strip))
        for known in ((None, None), SIZES[0]):
            functions[strip, known] = traced(graph, known).get_concrete_function()
    for size in SIZES:
        images = np.stack([image(seed, *size) for seed in range(2)])
        wanted = model.segment(list(images), confidence=True)
        assert max(classes_in(each.label_map) for each in wanted) >= 4
        for (_, known), function in functions.items():
            if known not in ((None, None), size):
                continue
            found = function(tf.constant(images))
            for i, each in enumerate(wanted):
                # Rounding decides between nearly equal classes.
                assert np.mean(found["labels"][i] != each.label_map) < 2e-4
                if "presence" in found:
                    np.testing.assert_allclose(found["presence"][i], each.presence, atol=1e-6)
                    np.testing.assert_allclose(found["confidence"][i], each.confidence, atol=1e-5)


@pytest.mark.parametrize("output", ["presence", "confidence"])
def test_an_output_alone(model, output):
    model.evaluation = EVALUATIONS["resized and windows"]
    found = traced(ImageToLabels(folded(model), model, [output]))(image(0, 97, 131)[None])
    wanted = model.segment(image(0, 97, 131), confidence=True)
    assert list(found) == [output]
    np.testing.assert_allclose(found[output][0], getattr(wanted, output), atol=1e-5)


@pytest.fixture(scope="module")
def resize():
    """`resize(images, height, width)` as exported, for sizes that are not known before."""

    def resized(images, height, width):
        rows, columns = (
            Axis(size, view, 1, view, view, True)
            for size, view in zip(tf.unstack(tf.shape(images)[1:3]), (height, width), strict=True)
        )
        return _resize_image(images, rows, columns, aligned=False)

    images, side = tf.TensorSpec((None, None, None, 3), "uint8"), tf.TensorSpec((), "int32")
    return tf.function(resized, input_signature=[images, side, side], autograph=False)


def test_images_are_resized_as_by_opencv(resize):
    views = [GOLDEN[name] for name in GOLDEN if name.startswith("view/")]
    (pixels,) = (view for view in views if view.shape == (61, 97, 3))  # the image itself
    assert len(views) > 5
    for view in views:
        np.testing.assert_array_equal(resize(pixels[None], *view.shape[:2])[0], view)


def test_images_are_resized_as_in_numpy(resize):
    rng = np.random.default_rng(0)
    sizes = rng.integers(32, 400, (40, 4)).tolist()
    sizes += [(4032, 32, 2048, 40), (32, 5999, 64, 2048), (48, 300, 48, 1025), (64, 64, 64, 64)]
    for height, width, *new in sizes:
        pixels = rng.integers(0, 256, (height, width, 3), "uint8")
        np.testing.assert_array_equal(resize(pixels[None], *new)[0], resize_image(pixels, *new))


def test_logits_do_not_depend_on_the_evaluation(model):
    images = image(3, 97, 131)[None]
    wanted = model.predict(images, verbose=0)
    model.evaluation = EVALUATIONS["resized and windows"]
    graph = ImageToLabels(folded(model), model, ["probabilities", "logits"])
    found = traced(graph)(images)
    assert list(found) == ["probabilities", "logits"]
    assert abs(found["logits"] - wanted).numpy().max() < 1e-5 * abs(wanted).max()
    odds = np.exp(wanted.astype("float64"))
    np.testing.assert_allclose(found["probabilities"], odds / odds.sum(-1, keepdims=True), atol=1e-5)


def test_folding_removes_norms_of_convolutions_and_training_operations():
    model = tiny()
    network = folded(model)
    layers = list(network._flatten_layers(include_self=False))
    norms = [layer.name for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms == ["encoding_norm"]
    assert not any(layer.name.startswith("aux") for layer in layers)
    concrete = traced(ImageToLabels(network, model, ["labels"])).get_concrete_function()
    kinds = {node.op for node in concrete.graph.as_graph_def().node}
    assert not kinds & {"FusedBatchNormV3", "RandomUniform", "StatelessRandomUniformV2"}
    assert not kinds & {"SpaceToBatchND", "BatchToSpaceND"}


def test_more_than_255_classes():
    model = tiny(num_classes=300, ignore_index=65535)
    found = traced(ImageToLabels(folded(model), model, ["labels"]))(image(0, 64, 64)[None])["labels"]
    assert found.dtype == "uint16"
    np.testing.assert_array_equal(found[0], model.segment(image(0, 64, 64)).label_map)


def test_custom_backbone_in_half_precision():
    def convolution(x, channels, strides=1):
        return keras.layers.Conv2D(channels, 3, strides, padding="same", dtype="mixed_float16")(x)

    pixels = keras.Input((None, None, 3))
    shallow = convolution(pixels, 8, 4)
    x = keras.layers.BatchNormalization(dtype="mixed_float16")(convolution(shallow, 8, 2))
    backbone = keras.Model(pixels, [shallow, x])
    model = EncNet(backbone, 3, head_channels=8, num_codes=4, dtype="mixed_float16")
    found = traced(ImageToLabels(folded(model), model, ["logits"]))(image(0, 64, 80)[None])["logits"]
    wanted = model.predict(image(0, 64, 80)[None], verbose=0)
    # Half precision has eleven bits.
    assert 1e-6 < abs(found - wanted).numpy().max() / abs(wanted).max() < 2e-2


@pytest.mark.parametrize("bound", [(2048, 512), (2048, 1024), (2049, 1025), (520, 520), (200, 80)])
def test_view_sizes_in_a_graph_equal_those_in_numpy(bound):
    rule = evaluation_rule({"resize": bound})

    def fitted(height, width):
        return tuple(axis.view for axis in axes_of((height, width), rule))

    function = tf.function(fitted, input_signature=[tf.TensorSpec((), "int32")] * 2)
    rng = np.random.default_rng(0)
    known = [(1024, 2048), (3000, 4000), (360, 480), (97, 131), (1080, 1920), (683, 1024)]
    for size in known + rng.integers(32, 6000, (60, 2)).tolist():
        assert tuple(int(side) for side in function(*size)) == fitted(*size)


@pytest.mark.parametrize("function", [labels.argmax, labels.argmax_of_last_axis])
def test_the_first_of_equal_classes_wins(function):
    scores = tf.constant([[0.0, 3, 3, 1], [-1, -1, -1, -1], [5, 0, 5, 5], [-np.inf, 1, 0, 1]])
    assert function(tf.transpose(scores)[None]).numpy().tolist() == [[1, 0, 0, 1]]
