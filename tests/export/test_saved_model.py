"""The SavedModel on a server: its signatures, without Keras and this package."""

import io
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from golden.weights import image
from keras_encnet.export import open_export
from models import classes_in, tiny

if keras.backend.backend() != "tensorflow":
    pytest.skip("a SavedModel is TensorFlow's", allow_module_level=True)

import tensorflow as tf

LABELS = ["sky", "road", "car", "tree", "wall", "lamp", "dog"]

# Importing Keras or this package fails, as on a server without them.
SERVER = """
import sys
sys.modules["keras"] = sys.modules["keras_encnet"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
found = model.signatures["serving_default"](images=tf.constant(images))
png = tf.io.encode_png(images[0])
answer = model.signatures["from_bytes"](image_bytes=tf.stack([png, "no image"]))
labels = tf.io.decode_png(answer["labels_bytes"][0])[..., 0]
assert answer["ok"].numpy().tolist() == [True, False] and answer["labels_bytes"][1] == b""
assert (labels == found["labels"][0]).numpy().all()
assert (model.serve(tf.constant(images))["labels"] == found["labels"]).numpy().all()
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""


@pytest.fixture(scope="module")
def model():
    return tiny(labels=LABELS, palette=np.arange(21).reshape(7, 3), evaluation={"resize": [160, 80]})


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "encnet"
    assert model.export(path, version=3) == path / "3"
    return path / "3"


def test_it_runs_without_keras_and_this_package(model, served, tmp_path):
    images = np.stack([image(seed, 97, 131) for seed in range(2)])
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", SERVER, served, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(command, check=True, cwd=tmp_path, env=_without_paths())
    found = np.load(tmp_path / "found.npz")
    assert set(found) == {"labels", "presence"}
    for i, wanted in enumerate(model.segment(list(images))):
        assert np.mean(found["labels"][i] == wanted.label_map) > 0.9998
        np.testing.assert_allclose(found["presence"][i], wanted.presence, atol=1e-6)


def test_signatures(model, served):
    signatures = tf.saved_model.load(str(served)).signatures
    assert set(signatures) == {"serve", "serving_default", "from_bytes", "logits", "classes"}
    images = image(0, 64, 80)[None]
    logits = signatures["logits"](images=tf.constant(images))
    wanted = model.predict(images, verbose=0)
    assert set(logits) == {"logits"}
    assert abs(logits["logits"] - wanted).numpy().max() < 1e-5 * abs(wanted).max()
    classes = signatures["classes"]()
    assert [name.decode() for name in classes["labels"].numpy()] == LABELS
    np.testing.assert_array_equal(classes["palette"], model.palette)


SHAPES = [(0, 64, 64, 3), (1, 31, 64, 3), (64, 64, 3), (1, 64, 64, 1), (1, 64, 64, 3, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_an_invalid_shape_are_refused(served, shape):
    run = tf.saved_model.load(str(served)).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="of 32 pixels or more on both sides"):
        run(images=tf.zeros(shape, "uint8"))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 2])
def test_sizes_other_than_the_fixed_one_are_refused(batch_size, tmp_path):
    path = tiny().export(tmp_path / "model", image_size=(64, 96), batch_size=batch_size)
    run = tf.saved_model.load(str(path)).signatures["serving_default"]
    assert run(images=tf.zeros((2, 64, 96, 3), "uint8"))["labels"].shape == (2, 64, 96)
    shapes = [(2, 96, 64, 3), (1, 128, 96, 3), *SHAPES] + ([(1, 64, 96, 3)] if batch_size else [])
    for shape in shapes:
        with pytest.raises(tf.errors.InvalidArgumentError, match=", 64, 96, 3\\), with one or more"):
            run(images=tf.zeros(shape, "uint8"))
    with pytest.raises(ValueError, match="must have shape \\(.*, 64, 96, 3\\), for which"):
        open_export(path)(np.zeros((2, 96, 64, 3), "uint8"))


def test_from_bytes_takes_images_of_any_size_and_a_broken_one(model, served):
    from_bytes = tf.saved_model.load(str(served)).signatures["from_bytes"]
    files, images = [], []
    for seed, size, format in ((0, (97, 131), "JPEG"), (1, (64, 72), "PNG"), (2, (80, 160), "JPEG")):
        file = io.BytesIO()
        Image.fromarray(image(seed, *size)).save(file, format)
        files.append(file.getvalue())
        images.append(np.asarray(Image.open(file)))
    files.insert(1, files[0][:500])
    images.insert(1, None)
    answer = from_bytes(image_bytes=tf.constant(files))
    assert answer["ok"].numpy().tolist() == [True, False, True, True]
    for file, one in zip(answer["labels_bytes"].numpy(), images, strict=True):
        if one is not None:
            labels = np.asarray(Image.open(io.BytesIO(file)))
            assert labels.shape == one.shape[:2]
            assert classes_in(labels) >= 3
            assert np.mean(labels == model.segment(one).label_map) > 0.9998


def test_saved_model_cli_runs_it(served, tmp_path):
    np.save(tmp_path / "images.npy", image(0, 64, 80)[None])
    command = [pathlib.Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", served]
    command += ["--tag_set", "serve", "--signature_def", "serving_default"]
    command += ["--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", tmp_path]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=_without_paths())
    assert np.load(tmp_path / "labels.npy").shape == (1, 64, 80)
    assert np.load(tmp_path / "presence.npy").shape == (1, 7)


def test_warm_up_requests_match_the_signatures(served):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = served / "assets.extra" / "tf_serving_warmup_requests"
    signatures = tf.saved_model.load(str(served)).signatures
    asked = []
    for record in tf.data.TFRecordDataset(str(records)).as_numpy_iterator():
        request = logs.PredictionLog.FromString(record).predict_log.request
        name = request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        asked.append((name, *inputs))
        answer = signatures[name](**inputs)
        assert all(answer.get("ok", [True]))
    assert asked == [("serving_default", "images"), ("from_bytes", "image_bytes")]


def test_weights_are_written_once(model, served):
    stored = served / "variables" / "variables.data-00000-of-00001"
    assert stored.stat().st_size < 1.1 * 4 * model.count_params()


def _without_paths():
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
