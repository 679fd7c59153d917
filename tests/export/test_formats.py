"""Every format in its own runtime, compared with the model."""

import importlib.metadata
import json
import zipfile

import keras
import numpy as np
import pytest

from golden.weights import image
from keras_encnet.export import FORMATS, open_export, verify
from models import classes_in, float32, tiny

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow writes the formats", allow_module_level=True)
for package in ("tf2onnx", "onnxruntime", "openvino", "scipy", "ai_edge_litert"):
    pytest.importorskip(package)

LABELS = [f"thing {i}" for i in range(7)]
WINDOWS = {"resize": [160, 100], "window": 64, "stride": 40}
SIZES = (97, 131), (64, 72)


def decided(logits):
    """The pixels where the two best logits differ by more than 2e-4 of the largest one."""
    first, second = np.sort(logits, axis=-1)[..., -1:-3:-1].transpose(3, 0, 1, 2)
    return first - second > 2e-4 * abs(logits).max()


@pytest.mark.parametrize("format", FORMATS)
def test_free_sizes_agree_with_the_model(format, tmp_path):
    model = tiny(labels=LABELS)
    outputs = ["labels", "presence", "logits", "confidence"]
    run = open_export(model.export(tmp_path / "model", format, outputs=outputs))
    for size in SIZES:
        images = np.stack([image(seed, *size) for seed in range(2)])
        found, logits = run(images), model.predict(images, verbose=0)
        assert set(found) == set(outputs)
        assert abs(found["logits"] - logits).max() < 1e-5 * abs(logits).max()
        assert found["labels"].dtype == "uint8" and classes_in(found["labels"]) >= 4
        sure = decided(logits)
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(found["labels"][sure], logits.argmax(-1)[sure])
        presence = [result.presence for result in model.segment(list(images))]
        np.testing.assert_allclose(found["presence"], presence, atol=1e-5)
        # By hand, from the logits at the images' own size.
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        assert found["confidence"].dtype == "float32" and found["confidence"].shape == (2, *size)
        np.testing.assert_allclose(found["confidence"], 1 / odds.sum(-1), atol=1e-5)


@pytest.mark.parametrize("evaluation", [pytest.param(None, marks=pytest.mark.slow), WINDOWS])
def test_litert_files_of_free_size_run_in_tensorflow_too(evaluation, tmp_path):
    model = tiny(evaluation=evaluation)
    path = model.export(tmp_path / "model", "litert", outputs=("labels", "presence", "confidence"))
    result = verify(model, path, [image(seed, *size) for seed, size in enumerate(SIZES)], runs=1)
    assert [name.split()[0] for name in result.seconds] == ["ai_edge_litert", "tf.lite"]
    assert result.labels > 0.9998
    assert set(result.differences) == {"presence", "confidence"}
    assert max(result.differences.values()) < 1e-5


@pytest.mark.parametrize(
    "format, name, package",
    [
        pytest.param("tf_saved_model", "TensorFlow", "tensorflow", marks=pytest.mark.slow),
        ("onnx", "ONNX Runtime", "onnxruntime"),
        pytest.param("openvino", "OpenVINO", "openvino", marks=pytest.mark.slow),
    ],
)
def test_a_verification_names_runtime_and_version(format, name, package, tmp_path):
    model = tiny()
    result = verify(model, model.export(tmp_path / "model", format), [image(0, 64, 72)], runs=1)
    version = importlib.metadata.version(package)
    assert str(result).startswith(f"{name} {version} compared with the model in float32, 1 images")
    assert result.labels > 0.9998


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_fixed_size_and_windows(format, tmp_path, monkeypatch):
    row = FORMATS[format]
    several_strips = row._replace(runtime=row.runtime._replace(strip=20_000))
    monkeypatch.setitem(FORMATS, format, several_strips)
    model = tiny(evaluation=WINDOWS, align_corners=True)
    outputs = "labels", "presence", "confidence"
    path = model.export(
        str(tmp_path / "model"), format, outputs=outputs, image_size=(97, 131), batch_size=1
    )
    wanted = model.segment(image(0, 97, 131), confidence=True)
    found = open_export(path)(image(0, 97, 131)[None])
    assert set(found) == set(outputs)
    assert np.mean(found["labels"][0] == wanted.label_map) > 0.9998
    np.testing.assert_allclose(found["presence"][0], wanted.presence, atol=1e-5)
    np.testing.assert_allclose(found["confidence"][0], wanted.confidence, atol=1e-5)
    if format == "onnx":
        onnx = pytest.importorskip("onnx")
        onnx.checker.check_model(onnx.load(path))
        # Operations are named after layers only, without the scopes of loops.
        assert b"/while/while/" not in path.read_bytes()


@pytest.mark.parametrize("batch_size", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_fixed_size_in_openvino(batch_size, tmp_path):
    import openvino

    model, images = tiny(), np.stack([image(seed, 97, 131) for seed in range(2)])
    path = model.export(tmp_path / "model", "openvino", image_size=(97, 131), batch_size=batch_size)
    outputs = openvino.Core().read_model(path).outputs
    assert [output.names for output in outputs] == [{"labels"}, {"presence"}]
    found = open_export(path)(images)
    for labels, wanted in zip(found["labels"], model.segment(list(images)), strict=True):
        assert np.mean(labels == wanted.label_map) > 0.9998


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_encodings_protocol_and_logits(format, tmp_path):
    model = tiny(evaluation={"resize": 100, "window": 64, "stride": 42, "protocol": "pytorch-encoding"})
    path = model.export(tmp_path / "model", format, outputs=["labels", "logits", "confidence"])
    images = image(0, 97, 131)[None]
    found, logits = open_export(path)(images), model.predict(images, verbose=0)
    assert abs(found["logits"] - logits).max() < 1e-5 * abs(logits).max()
    wanted = model.segment(images[0], confidence=True)
    assert np.mean(found["labels"][0] == wanted.label_map) > 0.9998
    np.testing.assert_allclose(found["confidence"][0], wanted.confidence, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_float16_halves_the_file(format, tmp_path):
    model = tiny()
    path = model.export(tmp_path / "model", format, outputs=["logits"], dtype="float16")
    float32_size = sum(np.prod(weight.shape) for weight in model.coarse_network().weights) * 4
    weights = {
        "tf_saved_model": lambda: path / "variables" / "variables.data-00000-of-00001",
        "openvino": lambda: path.with_suffix(".bin"),
    }.get(format, lambda: path)()
    # The graph is large compared with the few weights of a tiny network.
    graph = 350_000 if weights == path else 30_000
    assert weights.stat().st_size < 0.5 * float32_size + graph
    images = image(0, 97, 131)[None]
    found, logits = open_export(path)(images)["logits"], model.predict(images, verbose=0)
    assert 1e-6 < abs(found - logits).max() / abs(logits).max() < 5e-3


@pytest.mark.parametrize(
    "dtype", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"]
)
def test_a_mixed_model_is_exported_in_float32(dtype, tmp_path):
    model = tiny(dtype)
    images = image(0, 97, 131)[None]
    model.compile()
    model.fit(images, np.arange(97 * 131).reshape(1, 97, 131) % 7, verbose=0)
    run = open_export(model.export(tmp_path / "model", "openvino", outputs="logits"))
    wanted = float32(model).predict(images, verbose=0)
    assert abs(run(images)["logits"] - wanted).max() < 1e-5 * abs(wanted).max()
    assert keras.config.dtype_policy().name == "float32"


def test_onnx_metadata(tmp_path):
    import onnx

    model = onnx.load(tiny(labels=LABELS).export(tmp_path / "model.onnx", "onnx"))
    onnx.checker.check_model(model)
    metadata = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert metadata["labels"] == LABELS and len(metadata["palette"]) == len(LABELS)
    (images,) = model.graph.input
    sides = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
    assert images.name == "images" and sides == ["batch", "height", "width", 3]
    assert {output.name for output in model.graph.output} == {"labels", "presence"}


@pytest.mark.slow
def test_openvino_metadata(tmp_path):
    import openvino

    path = tiny(labels=LABELS).export(tmp_path / "model", "openvino")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    model = openvino.Core().read_model(path)
    assert json.loads(model.get_rt_info(["model_info", "labels"]).astype(str)) == LABELS
    assert model.input().get_any_name() == "images"


def test_litert_metadata(tmp_path):
    path = tiny(labels=LABELS, se_head=False).export(tmp_path / "model", "litert")
    assert path.name == "model.tflite"
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split("\n") == LABELS
        assert json.loads(archive.read("labels.json"))["labels"] == LABELS
    # Without an SE head there is no presence.
    assert set(open_export(path)(image(0, 64, 64)[None])) == {"labels"}
