"""Arguments, errors and files of `model.export`, on every backend."""

import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import tomllib

import keras
import numpy as np
import pytest
from PIL import Image

from golden.weights import image
from keras_encnet.cli import main
from keras_encnet.data.conventions import MIN_SIZE
from keras_encnet.export import FORMATS, open_export, runtimes, verify
from keras_encnet.export.runtimes import RUNTIMES
from models import float32, tiny

for package in ("tensorflow", "ai_edge_litert"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_from_any_backend(dtype, tmp_path):
    model = tiny(dtype, evaluation={"resize": [160, 80]})
    path = model.export(tmp_path / "model", "litert", outputs=("labels", "logits"))
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]
    model = float32(model)
    images = image(0, 97, 131)[None]
    found, logits = open_export(path)(images), model.predict(images, verbose=0)
    assert abs(found["logits"] - logits).max() < 1e-5 * abs(logits).max()
    assert np.mean(found["labels"][0] == model.segment(images[0]).label_map) > 0.9998


@pytest.mark.parametrize(
    "options, words",
    [
        ({"format": "caffe"}, "'tf_saved_model', 'onnx', 'litert', 'openvino'"),
        ({"dtype": "bfloat16"}, "`dtype` must be one of 'float32', 'float16', in every format"),
        ({"outputs": ["labels", "masks"]}, "'labels', 'logits', 'probabilities', 'presence'"),
        ({"outputs": []}, "must be one or more of"),
        ({"outputs": ["labels", "labels"]}, "one or more of .*each once"),
        ({"image_size": (31, 64)}, "32 or more each.*31, 64"),
        ({"image_size": 512}, r"must be \(height, width\).*512"),
        ({"batch_size": 0}, "an integer of 1 or more"),
        ({"version": 1, "format": "onnx"}, "the format 'tf_saved_model'.*1 for 'onnx'"),
        ({"version": "one"}, "an integer"),
        ({"quantize": "int8"}, "'int8', with the format 'onnx' or 'litert'"),
        ({"quantize": "int4", "format": "onnx"}, "'int8', with .*'onnx' or 'litert'.*'int4'"),
        ({"version": True}, "an integer"),
        ({"format": ["onnx"]}, "`format` must be one of.*onnx"),
        ({"outputs": None}, "must be one or more of"),
        ({"quantize": "int8", "format": "litert"}, "needs `calibration=`"),
        (
            {"quantize": "int8", "format": "litert", "calibration": Image.new("RGB", (64, 64))},
            "several images",
        ),
        ({"calibration": "photos"}, "`calibration` needs `quantize='int8'`"),
        ({"outputs": 5}, "must be one or more of.*5"),
        ({"outputs": {"labels": "presence"}}, "must be one or more of"),
        ({"outputs": [["labels"]]}, "must be one or more of"),
        ({"image_size": (31, 31)}, "32 or more each.*31, 31"),
        ({"image_size": (64.0, 64)}, "32 or more each.*64.0"),
        ({"image_size": (True, 64)}, "32 or more each"),
        ({"batch_size": True}, "an integer of 1 or more.*True"),
        ({"batch_size": 2.0}, "an integer of 1 or more.*2.0"),
        ({"dtype": "fp16"}, "`dtype` must be one of"),
        ({"dtype": ["float32"]}, "`dtype` must be one of"),
        ({"quantize": False}, "`quantize` must be 'int8'.*False"),
        ({"quantize": "INT8", "format": "onnx"}, "`quantize` must be 'int8'.*'INT8'"),
        ({"version": -1}, "0 or more.*-1"),
        (
            {"quantize": "int8", "format": "onnx", "calibration": np.zeros((64, 64, 3), "uint8")},
            r"several images.*an array of shape \(64, 64, 3\)",
        ),
        ({"quantize": "int8", "format": "onnx", "calibration": {"a": "a.jpg"}}, "several images"),
    ],
)
def test_invalid_arguments_are_named(model, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        model.export(tmp_path / "model", **{"format": "tf_saved_model", **options})
    assert not list(tmp_path.iterdir())


def test_presence_needs_its_head(tmp_path):
    model = tiny(se_head=False)
    with pytest.raises(ValueError, match="se_head=False"):
        model.export(tmp_path / "model", "litert", outputs=["presence"])


@pytest.mark.parametrize("format, package", [("onnx", "tf2onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_named(model, format, package, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != package and find(name))
    with pytest.raises(ImportError, match=f"needs {package}, .*: pip install {package}$"):
        model.export(tmp_path / "model", format)


def test_the_command_line_names_a_missing_package(tmp_path, monkeypatch, capsys):
    tiny().save_to_preset(tmp_path / "preset")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "tf2onnx" and find(name))
    assert main(f"export {tmp_path / 'preset'} {tmp_path / 'model'} --format onnx".split()) == 1
    assert "needs tf2onnx, which is not installed: pip install tf2onnx" in capsys.readouterr().err


def test_the_line_installs_all_that_the_format_lacks(model, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorflow")
    with pytest.raises(ImportError, match="pip install onnx tf2onnx onnxruntime$") as caught:
        model.export(tmp_path / "model", "onnx")
    assert caught.value.name == "onnx"


def test_the_smallest_size_is_that_of_the_package():
    assert runtimes.MIN_SIZE == MIN_SIZE


def test_packages_are_those_of_the_extra():
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    writing = {package for row in FORMATS.values() for package in row.packages}
    running = {runtime.package for runtime in RUNTIMES.values()}
    assert writing | running == {"tensorflow", *project["optional-dependencies"]["export"]}


def test_a_missing_runtime_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="needs onnxruntime, .*: pip install onnxruntime$"):
        open_export(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "name, format, words",
    [
        ("model.onnx", "litert", "must end in '.tflite'.*model.onnx.*format='onnx'"),
        ("model.tflite", "tf_saved_model", "a directory's.*model.tflite.*format='litert'"),
        ("model.XML", "onnx", "must end in '.onnx'.*format='openvino'"),
    ],
)
def test_the_suffix_of_another_format_is_refused(model, name, format, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        model.export(tmp_path / name, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_refused(model, path):
    with pytest.raises(ValueError, match="must be the name of a file or directory"):
        model.export(path, "litert")


def test_missing_tensorflow_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs tensorflow"):
        model.export(tmp_path / "model")


def test_an_earlier_export_is_replaced_and_other_files_are_kept(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "taken.tflite").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"a cat")
    with pytest.raises(FileExistsError, match="photos exists and is not a SavedModel"):
        model.export(tmp_path / "photos")
    with pytest.raises(FileExistsError, match="is a directory"):
        model.export(tmp_path / "taken", "litert")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"a cat"


def test_an_error_leaves_the_old_file_and_nothing_else(model, tmp_path, monkeypatch):
    (tmp_path / "model.tflite").write_bytes(b"before")

    def fail(*args, **kwargs):
        raise RuntimeError("in the middle")

    if keras.backend.backend() == "tensorflow":
        monkeypatch.setattr("keras_encnet.export.formats.zipfile.ZipFile", fail)
    else:
        monkeypatch.setattr("keras_encnet.export.export.save_preset", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        model.export(tmp_path / "model", "litert")
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]
    assert (tmp_path / "model.tflite").read_bytes() == b"before"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
def test_a_directory_without_write_permission_is_named(model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        model.export(tmp_path / "model", "litert")


def test_a_file_in_place_of_a_directory_is_named(model, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OSError, match="choose another place.*file"):
        model.export(tmp_path / "file" / "model", "litert")


@pytest.mark.slow
def test_the_command_line_verifies(tmp_path, capsys):
    model = tiny()
    model.save_to_preset(tmp_path / "preset")
    command = f"export {tmp_path / 'preset'} {tmp_path / 'model'} --format litert --verify"
    assert main([*command.split(), "--outputs", "labels", "presence", "logits"]) == 0
    output = capsys.readouterr().out
    litert, tensorflow = map(importlib.metadata.version, ("ai-edge-litert", "tensorflow"))
    for words in (
        f"ai_edge_litert {litert} and tf.lite (TensorFlow {tensorflow}) compared with the model",
        "the same label: ",
        "of logits: ",
        "size: ",
        "time: ",
    ):
        assert words in output
    assert main(f"export {tmp_path / 'preset'} {tmp_path / 'x'} --format tflite".split()) == 1
    assert "'litert'" in capsys.readouterr().err


def test_a_tensorflow_without_tf_lite_is_not_a_runtime_of_litert_files(monkeypatch):
    import tensorflow as tf

    assert runtimes.version_of("tf.lite").startswith("tf.lite (TensorFlow ")
    monkeypatch.delattr(tf, "lite")
    assert runtimes.version_of("tf.lite") is None
    assert runtimes.version_of("tensorflow").startswith("TensorFlow ")


@pytest.mark.slow
def test_verify_reports_differences(tmp_path, monkeypatch):
    monkeypatch.delitem(RUNTIMES, "tf.lite")
    model = tiny()
    path = model.export(tmp_path / "model", "litert", outputs=["labels", "presence", "logits"])
    good = verify(model, path, runs=1)
    assert good.differences["logits"] < 1e-5 and good.labels > 0.9998
    classifier = model.get_layer("pixel_logits")
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel, np.roll(bias, 1)])
    bad = verify(model, path, [image(0, 64, 80)], runs=1)
    assert bad.differences["logits"] > 0.01 and bad.labels < 0.9 and bad.images == 1
    assert good.size == path.stat().st_size

    with pytest.raises(ValueError, match="`images` must hold one or more"):
        verify(model, path, [])
    with pytest.raises(ValueError, match="`runs` must be an integer of 1 or more. Received: 0"):
        verify(model, path, runs=0)
    with pytest.raises(ValueError, match="`image_size` must be.*31"):
        verify(model, path, image_size=(31, 31))
    with pytest.raises(ValueError, match="`batch_size` must be.*0"):
        verify(model, path, batch_size=0)
    with pytest.raises(FileNotFoundError, match="gone.onnx"):
        verify(model, tmp_path / "gone.onnx")
    for other in (tiny(num_classes=5), tiny(se_head=False)):
        with pytest.raises(ValueError, match="Was it exported from this model"):
            verify(other, path, [image(0, 64, 80)], runs=1)


@pytest.mark.parametrize(
    "status, words",
    [
        ("kill -SEGV $$", r"crashed in ai_edge_litert \d.*: SIGSEGV"),
        ("exit 3", r"failed in ai_edge_litert \d"),
    ],
)
def test_a_file_that_crashes_its_runtime_fails_the_check_alone(status, words, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(f"#!/bin/sh\necho 'bad memory' >&2\n{status}\n")
    (tmp_path / "python").chmod(0o700)
    (tmp_path / "model.tflite").write_bytes(b"")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ChildProcessError, match=rf"(?s)model.tflite {words}") as caught:
        verify(tiny(), tmp_path / "model.tflite", [image(0, 64, 80)])
    assert "bad memory" in str(caught.value)


def test_nan_in_a_file_is_a_difference(tmp_path, monkeypatch):
    monkeypatch.delitem(RUNTIMES, "tf.lite")
    model = tiny(se_head=False)
    classifier = model.get_layer("pixel_logits")
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel, bias * np.nan])
    path = model.export(tmp_path / "model", "litert", outputs="logits")
    classifier.set_weights([kernel, bias])
    assert np.isnan(verify(model, path, [image(0, 64, 80)], runs=1).differences["logits"])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"threads": 0}, "`threads` must be an integer of 1 or more.*0"),
        ({"threads": True}, "`threads` must be"),
        ({"precision": "bf16"}, "'f32', or for OpenVINO 'bf16'.*'bf16' for 'model.tflite'"),
        ({"precision": "fp16"}, "`precision` must be"),
    ],
)
def test_invalid_options_of_runtimes_are_named(options, words, tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"")
    with pytest.raises(ValueError, match=words):
        open_export(tmp_path / "model.tflite", **options)


def test_sizes_other_than_the_fixed_one_are_refused(model, tmp_path):
    run = open_export(model.export(tmp_path / "model", "litert", image_size=tuple(np.array([64, 96]))))
    assert run(np.zeros((2, 64, 96, 3), "uint8"))["labels"].shape == (2, 64, 96)
    with pytest.raises(
        ValueError, match=r"must have shape \(any, 64, 96, 3\), for which the file was exported"
    ):
        run(np.zeros((1, 96, 64, 3), "uint8"))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return open_export(model.export(tmp_path_factory.mktemp("exported") / "model", "litert"))


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((0, 64, 64, 3), "uint8"), "uint8 of shape \\(0, 64, 64, 3\\)"),
        (np.zeros((64, 64, 3), "uint8"), "images\\[None\\]"),
        (np.zeros((1, 64, 64, 3), "float32"), "must be uint8.*float32"),
        (np.zeros((1, 64, 31, 3), "uint8"), "64×31"),
    ],
)
def test_invalid_batches_are_named(exported, images, words):
    with pytest.raises(ValueError, match=words):
        exported(images)


@pytest.mark.parametrize(
    "name, words",
    [
        ("model.pt", "must be an exported model.*'model.pt'"),
        ("gone.onnx", "There is no exported model"),
    ],
)
def test_paths_that_are_not_exports_are_named(name, words, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_export(tmp_path / name)
