"""`compile`, `fit` and `evaluate`, and one training step against mmsegmentation."""

import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import pytest

from backend import numpy
from golden.weights import state_dict
from keras_encnet import EncNet
from keras_encnet.convert import load_state
from keras_encnet.convert.state import variable_keys
from keras_encnet.data import Pairs, batches
from keras_encnet.training import SGD, MeanIoU, PolynomialDecay
from training.tiny import tiny

HERE = pathlib.Path(__file__).parents[1] / "golden"
GOLDEN = np.load(HERE / "training.npz")
STEP = json.loads((HERE / "training.json").read_text())

# One image size and one batch size: JAX compiles again for each.
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype="uint8")
MASKS = np.random.default_rng(1).integers(0, 3, (4, 32, 48), dtype="uint8")
MASKS[0, :8] = 255
TRAINING_LOGS = {"loss", "pixel_loss", "aux_loss", "se_loss", "miou"}


def trainable(model):
    return [numpy(variable.value).copy() for variable in model.trainable_variables]


def zeros(**heads):
    """Zero logits of two images: a cross-entropy of ln 3 per pixel, and ln 2 for the SE head."""
    pixel, image = np.zeros((2, 32, 48, 3), "float32"), np.zeros((2, 3), "float32")
    return {"logits": pixel, "aux": pixel, "se": image} | heads


@pytest.fixture(scope="module")
def trained():
    """A model after `fit`; tests may train it further."""
    model = tiny()
    model.compile()
    model.fit(
        IMAGES,
        MASKS,
        batch_size=2,
        epochs=2,
        validation_data=(IMAGES, MASKS),
        verbose=0,
    )
    return model


def test_compile_without_arguments():
    model = tiny()
    model.compile()
    optimizer = model.optimizer
    assert type(optimizer) is SGD
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    assert (optimizer.momentum, optimizer.gradient_decay) == (0.9, 5e-4)
    # 8 of 64 rows of pixels are ignored, but count in the mean.
    pixel = (1 - 8 / 64) * np.log(3)
    total = model.compute_loss(y=MASKS[:2], y_pred=zeros())
    assert float(total) == pytest.approx(1.4 * pixel + 0.2 * np.log(2), rel=1e-4)
    alone = model.compute_loss(y=MASKS[:2], y_pred=zeros()["logits"], training=False)
    assert float(alone) == pytest.approx(pixel, rel=1e-4)
    # Masks may have a last axis of 1.
    assert float(model.compute_loss(y=MASKS[:2, ..., None], y_pred=zeros())) == float(total)


def test_compile_arguments():
    model = tiny()
    ones = zeros()
    model.compile(aux_weight=3.0, se_weight=5.0, average="counted")
    assert float(model.compute_loss(y=MASKS[:2], y_pred=ones)) == pytest.approx(
        4 * np.log(3) + 5 * np.log(2), rel=1e-4
    )

    def two(labels, logits):
        return keras.ops.full_like(logits[..., 0], 2.0)

    model.compile(loss=two, se_weight=0.0)
    assert float(model.compute_loss(y=MASKS[2:], y_pred=ones)) == pytest.approx(2 * 1.4)


def test_class_weights():
    model = tiny()
    logits = np.zeros((2, 32, 48, 3), "float32")
    logits[..., 2] = np.log(2)  # probabilities 1/4, 1/4, 1/2
    masks = np.zeros((2, 32, 48), "uint8")
    masks[0] = 2
    found = []
    for weights in ([1.0, 1.0, 3.0], {2: 3.0}, np.array([1, 1, 3])):
        model.compile(class_weight=weights)
        found.append(float(model.compute_loss(y=masks, y_pred=logits, training=False)))
    # A weighted mean: ln 2 with weight 3, ln 4 with weight 1.
    assert found == pytest.approx([(3 * np.log(2) + np.log(4)) / 4] * 3, rel=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"average": "mean"}, r"`average`.*all.*counted.*'mean'"),
        ({"class_weight": [1, 2, 3, 4]}, r"`class_weight` must hold 3 numbers.*\[1, 2, 3, 4\]"),
        ({"class_weight": {0: 2, 3: 1}}, r"keys of `class_weight`.*0 to 2.*\[3\]"),
        ({"class_weight": {0: 2, "sky": 1}}, r"keys of `class_weight`.*0 to 2.*'sky'"),
        ({"class_weight": [1, -1, 1]}, r"`class_weight`.*from 0 up.*-1"),
        ({"class_weight": [1, np.nan, 1]}, r"`class_weight`.*from 0 up.*nan"),
        ({"class_weight": [0, 0, 0]}, r"`class_weight`.*not all of them 0"),
        ({"aux_weight": -0.4}, r"`aux_weight`.*from 0 up.*-0.4"),
        ({"se_weight": float("nan")}, r"`se_weight`.*from 0 up.*nan"),
        ({"aux_weight": None}, r"`aux_weight`.*from 0 up.*None"),
        ({"loss_weights": [1.0]}, r"`loss_weights`.*aux_weight="),
        ({"weighted_metrics": ["accuracy"]}, r"`weighted_metrics`.*as `metrics`"),
        ({"loss": "binary_crossentropy"}, r"Received: binary_crossentropy, which takes one-hot"),
        ({"loss": "categorical_crossentropy"}, r"Received: categorical_crossentropy, which"),
        ({"loss": keras.losses.CategoricalFocalCrossentropy()}, r"which takes one-hot"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy()}, r"Pass from_logits=True"),
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)},
            r"ignore_class=1.*class_weight=\{1: 0\}",
        ),
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")},
            r"reduction='sum'.*average=",
        ),
        ({"metrics": "accuracy"}, r"`metrics` must be a list.*Pass \['accuracy'\]"),
        ({"metrics": ["categorical_accuracy"]}, r"Received: CategoricalAccuracy"),
        ({"metrics": [keras.metrics.MeanIoU(3)]}, r"MeanIoU.*sparse_y_pred=False"),
        ({"metrics": [keras.metrics.SparseCategoricalCrossentropy()]}, r"from_logits=True"),
        ({"metrics": [MeanIoU(4)]}, r"number of classes, 3.*'miou' with num_classes=4"),
        ({"metrics": ["accuracy", "accuracy"]}, r"different names.*\['accuracy'\]"),
    ],
)
def test_invalid_arguments_of_compile_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny().compile(**options)


def test_sample_weights_reach_pixel_and_auxiliary_loss_but_not_the_se_loss():
    model = tiny()
    model.compile()
    image = np.array([3.0, 1.0], "float32")
    pixels = np.ones((2, 32, 48), "float32") * image[:, None, None]
    # Three quarters of the first image are valid.
    pixel = (3 * 0.75 + 1) / 2 * np.log(3)
    expected = pytest.approx(1.4 * pixel + 0.2 * np.log(2), rel=1e-4)
    for weight in (image, pixels):
        loss = model.compute_loss(y=MASKS[:2], y_pred=zeros(), sample_weight=weight)
        assert float(loss) == expected


def test_logs_of_fit_and_evaluate(trained):
    validation = {"val_loss", "val_miou"}
    history = trained.history.history
    assert set(history) == TRAINING_LOGS | validation
    assert all(len(values) == 2 for values in history.values())
    for epoch in range(2):
        logs = {name: values[epoch] for name, values in history.items()}
        total = logs["pixel_loss"] + 0.4 * logs["aux_loss"] + 0.2 * logs["se_loss"]
        assert logs["loss"] == pytest.approx(total, rel=1e-4)


def test_evaluate_returns_only_the_pixel_loss(trained):
    logs = trained.evaluate(IMAGES, MASKS, batch_size=2, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "miou"}
    loss, miou = by_hand(trained.predict(IMAGES, batch_size=2, verbose=0), MASKS)
    assert logs["loss"] == pytest.approx(loss, rel=1e-4)
    assert logs["miou"] == pytest.approx(miou, abs=1e-3)


def test_evaluate_with_sample_weights_and_a_last_axis(trained):
    weight = np.random.default_rng(2).random(MASKS.shape).astype("float32")
    logs = trained.evaluate(
        IMAGES, MASKS[..., None], sample_weight=weight, batch_size=2, verbose=0, return_dict=True
    )
    logits = trained.predict(IMAGES, batch_size=2, verbose=0)
    loss, miou = by_hand(logits, MASKS, weight)
    assert logs["loss"] == pytest.approx(loss, rel=1e-4)
    assert logs["miou"] == pytest.approx(miou, abs=1e-3)


def by_hand(logits, masks, weight=1.0):
    """(pixel loss, mean IoU) in NumPy."""
    logits = logits.astype("float64")
    weight = weight * (masks != 255)
    labels = np.where(masks == 255, 0, masks)
    chosen = np.take_along_axis(logits, labels[..., None].astype(int), -1)[..., 0]
    loss = np.log(np.exp(logits).sum(-1)) - chosen
    found = logits.argmax(-1)
    ious = [
        (weight * ((labels == i) & (found == i))).sum()
        / (weight * ((labels == i) | (found == i))).sum()
        for i in range(3)
    ]
    return (loss * weight).mean(), np.mean(ious)


def test_fit_with_class_weight_is_an_error_that_names_compile(trained):
    with pytest.raises(ValueError, match=r"compile\(class_weight=\.\.\.\)"):
        trained.fit(IMAGES, MASKS, class_weight={0: 1.0}, verbose=0)


def test_nan_in_images_is_an_error(trained):
    images = IMAGES.astype("float32")
    images[2, 5, 5, 1] = np.nan
    for call in (trained.fit, trained.evaluate):
        with pytest.raises(ValueError, match="NaN or infinity, first in image 2"):
            call(images, MASKS, verbose=0)


def test_fit_takes_batches_epoch_by_epoch(trained):
    pairs = Pairs(list(zip(IMAGES, MASKS, strict=True)))
    for count, steps in ((4, 2), (2, 1)):
        data = batches(pairs[:count], size=(32, 48), batch_size=2, augment=True, seed=0)
        history = trained.fit(data, epochs=2, verbose=0).history
        assert data.steps_per_epoch == steps and data.step == 2 * steps
        assert set(history) == TRAINING_LOGS and len(history["loss"]) == 2


def test_a_saved_and_loaded_model_continues_training(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == int(trained.optimizer.iterations) > 0
    logs = []
    for model in (trained, loaded):
        model.reset_metrics()
        for _ in range(2):
            result = model.train_on_batch(IMAGES[:2], MASKS[:2], return_dict=True)
        logs.append({name: float(value) for name, value in result.items()})
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    for a, b in zip(trained.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_arguments_of_compile_survive_loading(tmp_path):
    model = tiny()
    model.compile(
        keras.optimizers.AdamW(PolynomialDecay(0.002, steps=7), weight_decay=0.02),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[MeanIoU(3, name="iou"), keras.metrics.SparseCategoricalAccuracy(name="right")],
        aux_weight=0.3,
        se_weight=0.1,
        class_weight={1: 2.0},
        average="counted",
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    # On PyTorch Keras makes a subclass.
    assert isinstance(loaded.optimizer, keras.optimizers.AdamW)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    heads = zeros(logits=np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype("float32"))
    losses = [float(m.compute_loss(y=MASKS[:2], y_pred=heads)) for m in (model, loaded)]
    assert losses[0] == losses[1]
    logs = loaded.evaluate(IMAGES, MASKS, batch_size=2, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "iou", "right"}


@pytest.mark.parametrize("heads", [("aux",), ("se",), ()])
def test_losses_are_those_of_the_models_heads(heads):
    model = tiny(aux_head="aux" in heads, se_head="se" in heads)
    model.compile()
    parts = {"pixel_loss", *(f"{head}_loss" for head in heads)}
    assert {metric.name for metric in model.metrics if metric.name.endswith("_loss")} == parts
    if not heads:
        logs = model.train_on_batch(IMAGES[:2], MASKS[:2], return_dict=True)
        assert set(logs) == {"loss", "pixel_loss", "miou"}
        assert float(logs["loss"]) == pytest.approx(float(logs["pixel_loss"]))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("backbone", ["small", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_mixed_precision_trains(policy, backbone):
    if backbone == "small":
        model = tiny(dtype=policy)
    else:
        model = EncNet(backbone, 3, width=0.125, head_channels=8, dtype=policy)
    assert model.get_layer("bottleneck").compute_dtype == policy.removeprefix("mixed_")
    model.compile()
    images = np.repeat(np.repeat(IMAGES[:2, ::8, ::8], 8, 1), 8, 2)
    masks = images[..., 0] // 86
    history = model.fit(images, masks, batch_size=2, epochs=10, verbose=0).history
    assert np.isfinite([history[name] for name in TRAINING_LOGS]).all()
    assert history["loss"][-1] < history["loss"][0]
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert model.predict(images, verbose=0).dtype == "float32"
    heads = model.heads(images[:1])
    assert {keras.backend.standardize_dtype(y.dtype) for y in heads.values()} == {"float32"}


def test_a_frozen_backbone_does_not_change():
    model = tiny()
    model.backbone.trainable = False
    model.compile()
    before, all_before = model.backbone.get_weights(), model.get_weights()
    model.fit(IMAGES, MASKS, batch_size=2, verbose=0)
    for a, b in zip(before, model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    changed = [(a != b).any() for a, b in zip(all_before, model.get_weights(), strict=True)]
    assert sum(changed) == len(changed) - len(before)


class Foreign(keras.utils.PyDataset):
    """Two batches of images and masks that are not checked beforehand."""

    def __init__(self, masks, images=IMAGES):
        super().__init__()
        self.masks, self.images = masks, images

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return self.images[2 * i : 2 * i + 2], self.masks[2 * i : 2 * i + 2]


@pytest.fixture(scope="module")
def undecayed():
    """A model without weight decay: only the loss changes it."""
    model = tiny()
    model.compile(SGD(0.1, weight_decay=0.0))
    return model


def test_a_batch_of_ignored_pixels_changes_no_weight(undecayed):
    before = trainable(undecayed)
    logs = undecayed.train_on_batch(IMAGES[:2], np.full_like(MASKS[:2], 255), return_dict=True)
    assert {float(value) for value in logs.values()} == {0.0}
    for a, b in zip(before, trainable(undecayed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_invalid_mask_values_of_a_foreign_dataset_are_ignored_with_one_warning(undecayed):
    before = trainable(undecayed)
    invalid = Foreign(np.full_like(MASKS, 77))
    # 77 is far from a shift by one, so that "subtract 1" would be no advice.
    expected = (
        r"one of the 3 classes \(0 to 2\) or 255 \(ignored\). Received: 77 \(3072 pixels\) in the "
        r"first batch of the training data. They are ignored. If they are"
    )
    with pytest.warns(UserWarning, match=expected):
        undecayed.fit(invalid, validation_data=Foreign(np.full_like(MASKS, 255)), verbose=0)
    for a, b in zip(before, trainable(undecayed), strict=True):
        np.testing.assert_array_equal(a, b)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        half = np.where(MASKS == 1, 77, MASKS).astype("uint8")
        logs = undecayed.evaluate(Foreign(half), verbose=0, return_dict=True)
        ignored = np.where(MASKS == 1, 255, MASKS).astype("uint8")
        expected = undecayed.evaluate(Foreign(ignored), verbose=0, return_dict=True)
    assert logs == expected


def test_masks_that_a_transform_of_one_s_own_spoils_are_told(undecayed):
    spoiled = batches(
        list(zip(IMAGES, MASKS, strict=True)),
        size=(32, 48),
        batch_size=2,
        transform=lambda rng, image, mask: (image, np.where(mask == 1, 77, mask).astype("uint8")),
    )
    with pytest.warns(UserWarning, match=r"77 \(\d+ pixels\) in the first batch of the training data"):
        undecayed.fit(spoiled, verbose=0)


def test_fit_from_a_plain_generator_of_tensors(trained):
    def pairs():
        for i in (0, 2):
            yield tuple(keras.ops.convert_to_tensor(x[i : i + 2]) for x in (IMAGES, MASKS))

    history = trained.fit(pairs(), verbose=0).history
    assert set(history) == TRAINING_LOGS and np.isfinite(history["loss"]).all()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs tf.data")
def test_fit_from_a_tensorflow_dataset_of_unknown_sizes():
    import tensorflow as tf

    def pairs():
        for height, width in ((32, 48), (40, 35), (32, 48)):
            yield (
                np.zeros((2, height, width, 3), "uint8"),
                np.full((2, height, width), 1, "uint8"),
            )

    signature = (
        tf.TensorSpec((None, None, None, 3), "uint8"),
        tf.TensorSpec((None, None, None), "uint8"),
    )
    data = tf.data.Dataset.from_generator(pairs, output_signature=signature)
    model = tiny(dropout=0.1)
    model.compile()
    history = model.fit(data, epochs=2, validation_data=data, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["val_loss"]).all()


def test_a_training_step_agrees_with_mmsegmentation():
    model = EncNet("resnet18", STEP["num_classes"], dropout=0.0)
    shapes = json.loads((HERE / "shapes.json").read_text())[STEP["architecture"]]
    shapes = {
        key: [STEP["num_classes"] if side == -1 else side for side in shape]
        for key, shape in shapes.items()
    }
    load_state(model, state_dict(shapes, STEP["weights_seed"]), "mmsegmentation")
    # With a rate of 1 a step subtracts the gradient.
    model.compile(SGD(1.0, momentum=0.0, weight_decay=0.0))
    before = pytorch_state(model)
    logs = model.train_on_batch(GOLDEN["step/images"], GOLDEN["step/masks"], return_dict=True)
    after = pytorch_state(model)

    found = [logs["pixel_loss"], 0.4 * logs["aux_loss"], 0.2 * logs["se_loss"], logs["loss"]]
    expected = [STEP["losses"][part] for part in ("pixel", "aux", "se", "total")]
    np.testing.assert_allclose(np.array(found, "float64"), expected, rtol=1e-5)

    gradient = {key: before[key].astype("float64") - after[key] for key in STEP["sum_of_squares"]}
    for key, expected in STEP["sum_of_squares"].items():
        assert np.square(gradient[key]).sum() == pytest.approx(expected, rel=1e-3), key
    for name in filter(lambda name: name.startswith("step/gradient/"), GOLDEN.files):
        key = name.removeprefix("step/gradient/")
        found = gradient[key].ravel()[GOLDEN[f"step/entries/{key}"]]
        error = np.abs(found - GOLDEN[name]).max() / np.abs(gradient[key]).max()
        assert error < 2e-4, (key, error)
    for name in filter(lambda name: name.startswith("step/running/"), GOLDEN.files):
        key = name.removeprefix("step/running/")
        found = after[key][GOLDEN[f"step/running_entries/{key}"]]
        np.testing.assert_allclose(found, GOLDEN[name], rtol=2e-5, atol=1e-5, err_msg=key)


def pytorch_state(model):
    """{key: array} in PyTorch's layout."""
    state = {}
    for key, variable in variable_keys(model, "mmsegmentation"):
        value = numpy(variable.value).copy()
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2 and not key.endswith("codewords"):
            value = value.T
        state[key] = value
    return state


# === What Keras's own methods do ===


@pytest.mark.slow
def test_replicas_share_a_batch_like_one_device(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs tf.distribute")
    # The number of devices is fixed when TensorFlow starts.
    program = tmp_path / "replicas.py"
    program.write_text(REPLICAS)
    found = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    single, mirrored = json.loads(found.stdout.splitlines()[-1])
    assert single["loss"] > 0 and single["step"] > 0 and single["regularizer"] > 0
    assert mirrored == pytest.approx(single, rel=1e-3)


REPLICAS = """
import contextlib, json
import keras, numpy as np, tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_encnet.training import SGD
from training.tiny import tiny

# Each replica has the same two images.
images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype="uint8")
images = np.repeat(images, 2, 0)[[0, 2, 1, 3]].astype("float32")
masks = (images[..., 0] > 127).astype("uint8") * 2
data = tf.data.Dataset.from_tensor_slices((images, masks)).batch(4)
found = []
for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = tiny()
        model.compile(SGD(0.01, momentum=0.0, weight_decay=0.0))
        kernel = model.get_layer("pixel_logits").kernel
        kernel.regularizer = keras.regularizers.L2(1.0)
    before = np.array(kernel)
    logs = model.fit(data, verbose=0).history
    found.append({name: values[0] for name, values in logs.items()})
    found[-1]["step"] = float(np.abs(np.array(kernel) - before).sum())
    found[-1]["regularizer"] = float(np.square(before).sum())
    found[-1]["val_loss"] = model.evaluate(data, verbose=0)[0]
print(json.dumps(found))
"""


def test_losses_of_regularizers_count():
    model = tiny()
    model.compile()
    kernel = model.get_layer("pixel_logits").kernel
    before = [float(model.compute_loss(y=MASKS[:2], y_pred=zeros(), training=t)) for t in (True, False)]
    kernel.regularizer = keras.regularizers.L2(3.0)
    after = [float(model.compute_loss(y=MASKS[:2], y_pred=zeros(), training=t)) for t in (True, False)]
    added = 3 * np.square(numpy(kernel.value)).sum()
    assert after == pytest.approx([value + added for value in before], rel=1e-5)


def test_a_last_smaller_batch_counts_by_its_images():
    model = tiny()
    model.compile(SGD(0.0))
    logs = model.fit(IMAGES[:3], MASKS[:3], batch_size=2, shuffle=False, verbose=0).history
    logs = {name: values[0] for name, values in logs.items()}
    total = logs["pixel_loss"] + 0.4 * logs["aux_loss"] + 0.2 * logs["se_loss"]
    assert logs["loss"] == pytest.approx(total, rel=1e-4)


def test_callbacks_without_a_monitor_may_have_a_mode(trained):
    class Auto(keras.callbacks.Callback):
        mode = "auto"

    trained.fit(IMAGES, MASKS, batch_size=2, callbacks=[Auto()], verbose=0)


def test_callbacks_find_the_direction_of_what_they_monitor(trained, tmp_path):
    stops = {
        name: keras.callbacks.EarlyStopping(monitor=name)
        for name in [*TRAINING_LOGS, "val_loss", "val_miou"]
    }
    others = [
        keras.callbacks.ReduceLROnPlateau(monitor="val_miou"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_miou", save_best_only=True
        ),
    ]
    trained.fit(
        IMAGES,
        MASKS,
        batch_size=2,
        validation_data=(IMAGES, MASKS),
        callbacks=[*stops.values(), *others],
        verbose=0,
    )
    upwards = {name for name, stop in stops.items() if stop.monitor_op is keras.ops.greater}
    assert upwards == {"miou", "val_miou"}
    assert {stop.monitor_op for stop in stops.values()} == {keras.ops.greater, keras.ops.less}
    assert (tmp_path / "best.keras").exists()


def test_metrics_names_are_those_of_what_evaluate_returns():
    model = tiny()
    assert model.metrics_names == []
    # "right" comes after "loss" and "miou" in the alphabet.
    right = keras.metrics.SparseCategoricalAccuracy(name="right")
    model.compile(metrics=[right, MeanIoU(3), "accuracy"])
    names = ["loss", "right", "miou", "accuracy"]
    assert model.metrics_names == names
    values = model.evaluate(IMAGES, MASKS, batch_size=2, verbose=0)
    logs = model.evaluate(IMAGES, MASKS, batch_size=2, verbose=0, return_dict=True)
    assert list(logs) == model.metrics_names == names
    assert values == pytest.approx(list(logs.values()))
    assert logs["right"] == logs["accuracy"]
    model.reset_metrics()
    values = model.test_on_batch(IMAGES[:2], MASKS[:2])
    model.reset_metrics()  # Keras 3.13 does not
    logs = model.test_on_batch(IMAGES[:2], MASKS[:2], return_dict=True)
    assert values[0] == pytest.approx(logs["loss"]) and set(logs) == set(names)


def test_progress_shows_loss_and_metrics_first(trained, capsys, monkeypatch):
    # Keras shows no step that takes less than a twentieth of a second.
    seconds = types.SimpleNamespace(time=itertools.count().__next__)
    monkeypatch.setattr("keras.src.utils.progbar.time", seconds)
    trained.fit(IMAGES, MASKS, batch_size=2, validation_data=(IMAGES, MASKS), verbose=2)
    names = re.findall(r"(\w+): [\d.]", capsys.readouterr().out)
    expected = ["loss", "miou", "pixel_loss", "aux_loss", "se_loss", "val_loss", "val_miou"]
    assert names == expected
    trained.fit(IMAGES, MASKS, batch_size=2, verbose=1)
    lines = re.split(r"[\r\n]+", capsys.readouterr().out)
    during, end = ([line for line in lines if f"{i}/2" in line][-1] for i in (1, 2))
    assert re.findall(r"(\w+): [\d.]", during) == ["loss", "miou"]
    assert re.findall(r"(\w+): [\d.]", end) == expected[:5]
    own = keras.callbacks.ProgbarLogger()
    trained.fit(IMAGES, MASKS, batch_size=2, verbose=2, callbacks=[own])
    assert len(capsys.readouterr().out.splitlines()) == 1  # not a second bar


def test_arguments_by_position_are_keras_s(trained):
    # x, y, batch_size, epochs, verbose, callbacks, validation_split
    history = trained.fit(IMAGES, MASKS, 2, 1, 0, [], 0.5).history
    assert "val_loss" in history
    # x, y, batch_size, verbose, sample_weight, steps, callbacks, return_dict
    logs = trained.evaluate(IMAGES, MASKS, 2, 0, None, 1, None, True)
    assert set(logs) == {"loss", "miou"}
    assert trained.predict(IMAGES, 2, 0, 1).shape == (2, 32, 48, 3)


def test_images_by_name(trained):
    by_name = {"images": IMAGES}
    expected = trained.predict(IMAGES, batch_size=2, verbose=0)
    for x in (by_name, [IMAGES]):
        np.testing.assert_array_equal(trained.predict(x, batch_size=2, verbose=0), expected)
    logs = trained.evaluate(IMAGES, MASKS, batch_size=2, verbose=0)
    assert trained.evaluate(by_name, MASKS, batch_size=2, verbose=0) == pytest.approx(logs)
    assert trained.evaluate(Foreign(MASKS, by_name_dataset()), verbose=0) == pytest.approx(logs)
    history = trained.fit(
        by_name, MASKS, batch_size=2, validation_data=(by_name, MASKS), verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(trained.train_on_batch({"images": IMAGES[:2]}, MASKS[:2])[0])
    with pytest.raises(ValueError, match=r"`?images.*\['photo'\]"):
        trained.predict({"photo": IMAGES}, verbose=0)


def by_name_dataset():
    class ByName:
        def __getitem__(self, i):
            return {"images": IMAGES[i]}

    return ByName()


def test_lists_and_pairs_are_explained(trained):
    images, masks = list(IMAGES), list(MASKS)
    pairs = list(zip(images, masks, strict=True))
    for call in (trained.fit, trained.evaluate, lambda x, y, **_: trained.predict(x)):
        with pytest.raises(ValueError, match=r"a list of 4. Pass np.stack\(images\).*data.batches"):
            call(images, masks, verbose=0)
        for x in (Pairs(pairs), pairs):
            with pytest.raises(ValueError, match=r"pairs of image and mask. Pass data.batches\(pairs"):
                call(x, None, verbose=0)
    with pytest.raises(ValueError, match=r"data.batches\(pairs"):
        trained.fit(IMAGES, MASKS, validation_data=Pairs(pairs), verbose=0)


def test_arrays_of_one_batch_are_checked(trained):
    for call in (trained.train_on_batch, trained.test_on_batch):
        with pytest.raises(ValueError, match="one of the 3 classes.*Received: 77"):
            call(IMAGES[:2], np.full_like(MASKS[:2], 77))
        with pytest.raises(ValueError, match="NaN or infinity, first in image 0"):
            call(np.full(IMAGES[:2].shape, np.nan, "float32"), MASKS[:2])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            call(IMAGES[:2], np.where(MASKS[:2] > 0, 255, MASKS[:2]))  # one class


def test_class_weight_of_train_on_batch_is_an_error(trained):
    with pytest.raises(ValueError, match=r"`train_on_batch\(class_weight.*model.compile\(class_weight"):
        trained.train_on_batch(IMAGES[:2], MASKS[:2], class_weight={0: 1.0})


# === compile ===


@pytest.mark.parametrize(
    "loss",
    [
        "crossentropy",
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
    ],
)
def test_crossentropy_by_name_takes_logits(loss):
    model = tiny()
    logits = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype("float32")
    found = []
    for argument in (None, loss):
        model.compile(loss=argument)
        found.append(float(model.compute_loss(y=MASKS[:2], y_pred=logits, training=False)))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[0] == pytest.approx(by_hand(logits, MASKS[:2])[0], rel=1e-5)


def test_metrics_by_name_take_logits(trained):
    model = tiny()
    model.set_weights(trained.get_weights())
    theirs = keras.metrics.MeanIoU(3, sparse_y_pred=False, name="theirs")
    model.compile(metrics=["accuracy", "crossentropy", MeanIoU(3), theirs])
    logs = model.evaluate(IMAGES, MASKS, batch_size=2, verbose=0, return_dict=True)
    logits = model.predict(IMAGES, batch_size=2, verbose=0)
    valid = MASKS != 255
    right = logits.argmax(-1) == MASKS
    assert logs["accuracy"] == pytest.approx(right[valid].mean(), abs=1e-4)
    loss = by_hand(logits, MASKS)[0] * valid.size / valid.sum()
    assert logs["crossentropy"] == pytest.approx(loss, rel=1e-4)
    assert logs["theirs"] == pytest.approx(logs["miou"], abs=1e-5)


class OwnIoU(keras.metrics.MeanIoU):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, keras.ops.argmax(y_pred, axis=-1), sample_weight)


class OwnCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    def call(self, y_true, y_pred):
        return super().call(y_true, keras.ops.softmax(y_pred))


def test_metrics_and_losses_of_ones_own_are_trusted(trained):
    model = tiny()
    model.set_weights(trained.get_weights())
    model.compile(loss=OwnCrossentropy(), metrics=[MeanIoU(3), OwnIoU(3, name="own")])
    logs = model.evaluate(IMAGES, MASKS, batch_size=2, verbose=0, return_dict=True)
    assert logs["own"] == pytest.approx(logs["miou"], abs=1e-5)
    logits = model.predict(IMAGES, batch_size=2, verbose=0)
    assert logs["loss"] == pytest.approx(by_hand(logits, MASKS)[0], rel=1e-4)


def test_weights_of_heads_that_a_model_lacks_are_refused():
    model = tiny(aux_head=False)
    model.compile(aux_weight=0, se_weight=0.5)
    with pytest.raises(ValueError, match=r"`aux_weight` must be 0.*0.4"):
        model.compile(aux_weight=0.4)


def test_a_compile_config_of_an_earlier_version_loads():
    model = tiny(aux_head=False)
    model.compile(se_weight=0.5)
    config = model.get_compile_config()
    model.compile_from_config({**config, "aux_weight": 0.4})
    assert model.get_compile_config() == config


def test_compile_without_an_optimizer_warns_of_a_resnet_with_random_weights():
    model = EncNet("resnet18", 3, width=0.125, head_channels=8)
    with pytest.warns(UserWarning, match=r"'resnet18' with random.*imagenet.*PolynomialDecay.*AdamW"):
        model.compile()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.compile("sgd")
        tiny().compile()  # with a backbone of the user's own
        for variable in model.backbone.non_trainable_variables:
            variable.assign(variable + 0.5)
        model.compile()


# === Datasets ===


def test_batches_pad_with_the_models_ignore_index():
    model = tiny(ignore_index=11)
    model.compile()
    pairs = [(IMAGES[1], MASKS[1])] * 2
    training, validation = (batches(pairs, size=(40, 48), batch_size=2) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(training, validation_data=validation, verbose=0)
    for data in (training, validation):
        assert set(np.unique(data[0][1])) == {0, 1, 2, 11}
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"`ignore_index`.*255.*11"):
            call(batches(pairs, size=(40, 48), batch_size=2, ignore_index=255), verbose=0)


class Counted(Pairs):
    masks_read = 0

    def mask(self, i):
        self.masks_read += 1
        return super().mask(i)


def test_pairs_are_checked_once_for_each_use(undecayed):
    one_class = Counted([(IMAGES[0], MASKS[0] // 255 * 255)] * 2)  # 0, and 255 that is ignored
    data = batches(one_class, size=(32, 48), batch_size=2)
    for _ in range(2):
        undecayed.evaluate(data, verbose=0)
    assert one_class.masks_read == 2
    with pytest.raises(ValueError, match="only 0 and 255"):
        undecayed.fit(data, verbose=0)
    assert one_class.masks_read == 4

    good = Counted([(IMAGES[0], MASKS[0])] * 2)
    data = batches(good, size=(32, 48), batch_size=2)
    undecayed.fit(data, verbose=0)
    undecayed.evaluate(data, verbose=0)
    assert good.masks_read == 2


def test_predict_does_not_check_masks(undecayed):
    pairs = Counted([(IMAGES[0], np.full_like(MASKS[0], 77))] * 2)
    logits = undecayed.predict(batches(pairs, size=(32, 48), batch_size=2), verbose=0)
    assert logits.shape == (2, 32, 48, 3) and pairs.masks_read == 0


LABELS = np.where(MASKS == 255, 0, MASKS)


def caught(call):
    """The warnings of this package in a call."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found if "keras_encnet" in w.filename]


def test_values_in_datasets_are_warned_of_once_in_a_call(undecayed):
    assert caught(lambda: undecayed.fit(Foreign(LABELS), verbose=0)) == []
    black_and_white = Foreign(LABELS // 2 * 255)
    messages = caught(lambda: undecayed.fit(black_and_white, validation_data=Foreign(MASKS), verbose=0))
    assert len(messages) == 1 and "only 0 and 255, which is ignored, in the train" in messages[0]
    # Whoever tries again is told again, once for all epochs.
    assert caught(lambda: undecayed.fit(black_and_white, epochs=2, verbose=0)) == messages
    messages = caught(lambda: undecayed.evaluate(Foreign(LABELS + 1), verbose=0))
    assert len(messages) == 1
    expected = "in the first batch of the evaluation data. They are ignored. Most likely the labels are"
    assert expected in messages[0]
    assert caught(lambda: undecayed.fit(IMAGES, LABELS, batch_size=2, verbose=0)) == []


def test_an_epoch_of_some_steps_may_lack_classes(undecayed):
    data = Foreign(np.where(np.arange(4)[:, None, None] < 2, 0, LABELS))
    options = {"steps_per_epoch": 1, "epochs": 2, "shuffle": False, "verbose": 0}
    assert caught(lambda: undecayed.fit(data, **options)) == []
    messages = caught(lambda: undecayed.fit(Foreign(LABELS // 2), epochs=2, verbose=0))
    assert len(messages) == 1 and "had this class: 2" in messages[0]


def test_images_are_warned_of_after_the_first_batch(undecayed):
    told = []

    class Listen(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            told.append(sum("scaled" in str(warning.message) for warning in found))

    data = Foreign(MASKS, IMAGES / np.float32(255))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        undecayed.fit(data, callbacks=[Listen()], verbose=0)
    assert told == [0, 1]
    messages = [str(w.message) for w in found if "keras_encnet" in w.filename]
    assert len(messages) == 1 and "floats up to 1" in messages[0]


def test_validation_data_are_named(undecayed):
    data = Foreign(LABELS + 1, IMAGES / np.float32(255))
    messages = caught(lambda: undecayed.fit(Foreign(MASKS), validation_data=data, verbose=0))
    assert len(messages) == 2 and all(
        "in the first batch of the validation data" in message for message in messages
    )


@pytest.mark.parametrize(
    "masks, message",
    [
        (np.eye(3, dtype="uint8")[LABELS], r"They look one-hot: pass np.argmax\(masks, axis=-1\)"),
        (MASKS.astype("float32"), r"integer dtype.*float32"),
        (MASKS[:, ::2], r"must have shape \(.*, 32, 48\).*Received: shape \(.*, 16, 48\)"),
        (MASKS[:, 0, 0], r"one label per pixel"),
    ],
)
def test_shapes_and_dtypes_in_datasets_are_errors(masks, message):
    model = tiny()
    model.compile()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            call(Foreign(masks), verbose=0)


def test_a_dataset_without_masks_is_an_error():
    def images():
        yield (IMAGES[:2],)

    model = tiny()
    model.compile()
    with pytest.raises(ValueError, match="Masks must be.*no masks"):
        model.evaluate(images(), verbose=0)


def test_sample_weights_of_another_shape_are_errors(trained):
    for weight in (np.ones((2, 32)), np.ones((2, 16, 48))):
        with pytest.raises(ValueError, match="`sample_weight` must have one number per image"):
            trained.compute_loss(y=MASKS[:2], y_pred=zeros(), sample_weight=weight)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
def test_images_of_many_sizes_do_not_make_tensorflow_warn(trained, caplog, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    caplog.set_level("WARNING", "tensorflow")

    def retrace(function):
        function = tf.function(function)
        for size in range(7):
            function(tf.zeros(size))

    # TensorFlow warns twice of each function.
    callback = keras.callbacks.LambdaCallback()
    callback.on_predict_begin = lambda logs: retrace(lambda x: x + 1)
    callback.on_test_begin = lambda logs: retrace(lambda x: x + 2)
    trained.predict(IMAGES, batch_size=2, verbose=0, callbacks=[callback])
    trained.evaluate(IMAGES, MASKS, batch_size=2, verbose=0, callbacks=[callback])
    assert "retracing" not in caplog.text
    retrace(lambda x: x + 3)
    assert "retracing" in caplog.text
