"""The losses against both PyTorch originals, which ran in float64, and by hand."""

import pathlib

import keras
import numpy as np
import pytest

from backend import gradients, numpy
from keras_encnet.data import Pairs
from keras_encnet.layers import BilinearResize
from keras_encnet.training import class_weights
from keras_encnet.training.losses import (
    per_pixel,
    pixel_loss,
    presence,
    se_loss,
    split_mask,
)
from keras_encnet.training.statistics import DataStatistics

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "training.npz")
CASES = sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("losses/")})
HEADS = ("logits", "aux", "se")
MMSEG = [name for name in CASES if not name.startswith("paper-") and name != "empty-batch"]


def record(name):
    start = f"losses/{name}/"
    return {key.removeprefix(start): GOLDEN[key] for key in GOLDEN.files if key.startswith(start)}


def parts(case, average, logits, aux, se):
    labels, valid = split_mask(case["mask"], 5)
    options = {"average": average, "class_weight": case.get("class_weight")}
    if tuple(logits.shape[1:3]) != case["mask"].shape[1:]:
        resize = BilinearResize(bool(case["align_corners"]))
        like = keras.ops.convert_to_tensor(case["mask"][..., None].astype("float32"))
        logits, aux = resize(logits, like), resize(aux, like)
    return (
        pixel_loss(labels, valid, logits, **options),
        0.4 * pixel_loss(labels, valid, aux, **options),
        0.2 * se_loss(labels, valid, se),
    )


def computed(case, average):
    """The three weighted losses and the gradients of their sum, from one forward pass."""
    seen = []

    def total(*heads):
        losses = parts(case, average, *heads)
        seen.append(losses)
        return sum(losses)

    grads = gradients(total, *(case[head] for head in HEADS))
    if keras.backend.backend() == "jax":  # where `seen` holds tracers
        seen = [parts(case, average, *(case[head] for head in HEADS))]
    return [float(numpy(loss)) for loss in seen[0]], dict(zip(HEADS, grads, strict=True))


def assert_gradients(grads, case):
    for head in HEADS:
        expected = case[f"grad_{head}"]
        np.testing.assert_allclose(grads[head], expected, rtol=0, atol=2e-6 * abs(expected).max())


def invalid_pixels(mask):
    statistics = DataStatistics(num_classes=5, ignore_index=255)
    statistics.update_state(None, mask)
    return statistics.invalid_pixels()


def test_there_are_cases_of_every_kind():
    assert {"ignored", "empty-image", "empty-batch", "class-weight-counted"} <= set(CASES)
    assert len(MMSEG) == 10 and sum(name.startswith("paper-") for name in CASES) == 3


@pytest.mark.parametrize("name", MMSEG)
def test_agrees_with_mmsegmentation(name):
    case = record(name)
    average = "counted" if case["avg_non_ignore"] else "all"
    losses, grads = computed(case, average)
    np.testing.assert_allclose(
        losses, [case[key] for key in ("pixel", "aux_loss", "se_loss")], rtol=1e-6
    )
    assert_gradients(grads, case)
    labels, valid = split_mask(case["mask"], 5)
    np.testing.assert_array_equal(numpy(presence(labels, valid, 5)), case["presence"])
    assert invalid_pixels(case["mask"]) == {}


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("paper-")])
def test_counted_agrees_with_pytorch_encoding(name):
    case = record(name)
    losses, grads = computed(case, "counted")
    np.testing.assert_allclose(sum(losses), case["total"], rtol=1e-6)
    assert_gradients(grads, case)


@pytest.mark.parametrize("average", ["all", "counted"])
def test_a_batch_without_valid_pixels_has_loss_and_gradient_zero(average):
    case = record("empty-batch")
    losses, grads = computed(case, average)
    assert losses == [0, 0, 0]
    for gradient in grads.values():
        np.testing.assert_array_equal(gradient, 0)


def test_values_outside_the_classes_are_ignored():
    case = record("ignored")
    mask = case["mask"].astype("int32")
    where = np.argwhere(mask == 255)
    invalid = mask.copy()
    for place, value in zip(where, (5, 254, -1, 1000), strict=False):
        invalid[tuple(place)] = value
    expected, got = split_mask(mask, 5), split_mask(invalid, 5)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    assert invalid_pixels(mask) == {}
    assert invalid_pixels(invalid) == {"5": 1, "254": 1, "below 0": 1, "above 255": 1}


@pytest.mark.parametrize("average", ["all", "counted"])
def test_sample_weights(average):
    # Zero logits: the loss of every pixel is ln 2. One of the eight pixels is ignored.
    masks = np.array([[[0, 1], [1, 0]], [[1, 1], [0, 255]]])
    labels, valid = split_mask(masks, 2)
    logits = np.zeros((2, 2, 2, 2), "float32")
    pixels = {"all": 8, "counted": 7}[average]

    def loss(weight):
        weight = per_pixel(np.array(weight), valid)
        return float(pixel_loss(labels, valid, logits, sample_weight=weight, average=average))

    ln2 = np.log(2)
    assert loss([1, 1]) == pytest.approx(7 * ln2 / pixels)
    assert loss([2, 0.5]) == pytest.approx((4 * 2 + 3 * 0.5) * ln2 / pixels)
    assert loss([[2], [0.5]]) == pytest.approx((4 * 2 + 3 * 0.5) * ln2 / pixels)
    each = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 100]]])
    assert loss(each) == pytest.approx(28 * ln2 / pixels)
    assert loss(each[..., None]) == pytest.approx(28 * ln2 / pixels)


def test_custom_loss():
    labels, valid = split_mask(np.array([[[1, 0, 255, 1]]]), 2)
    logits = np.zeros((1, 1, 4, 2), "float32")

    def label_plus_one(labels, logits):
        return keras.ops.cast(labels, "float32") + 1

    assert float(pixel_loss(labels, valid, logits, loss=label_plus_one)) == (2 + 1 + 2) / 4
    as_object = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(pixel_loss(labels, valid, logits, loss=as_object)) == pytest.approx(3 * np.log(2) / 4)
    with pytest.raises(ValueError, match=r"a value for each pixel.*\(1, 1\)"):
        pixel_loss(labels, valid, logits, loss=lambda labels, logits: logits[..., 0, 0])


def test_class_weights_follow_enets_formula():
    image = np.zeros((32, 32, 3), "uint8")
    mask = np.zeros((32, 32), "uint8")
    mask[:8] = 1
    mask[8:16] = 255  # of 768 valid pixels 512 are class 0 and 256 class 1; class 2 is absent
    found = class_weights(Pairs([(image, mask)]), 3)
    expected = 1 / np.log(1.02 + np.array([512, 256, 0]) / 768)
    np.testing.assert_allclose(found, expected / expected.mean())


def test_class_weights_of_unsuitable_masks_are_errors():
    pair = np.zeros((32, 32, 3), "uint8"), np.full((32, 32), 255, "uint8")
    with pytest.raises(ValueError, match=r"pixels of the 2 classes.*1 masks without any"):
        class_weights([pair], 2)
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer. Received: 0"):
        class_weights([pair], 0)
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer. Received: None"):
        class_weights([pair], None)
