"""The pixel losses against segmentation_models.pytorch, mmsegmentation and PyTorch, in float64."""

import pathlib

import keras
import numpy as np
import pytest
from tiny import tiny

from backend import gradients, numpy
from keras_encnet.training.losses import LOSSES, pixel_loss, pixel_loss_function, split_mask
from keras_encnet.training.pixel_losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    OhemLoss,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "recipes.npz")
CASES = sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("losses/")})
# What the original computed: (loss, average).
ORIGINALS = {
    "mmseg_lovasz": (LovaszLoss(), "all"),
    "mmseg_focal": (FocalLoss(), "all"),
    "mmseg_focal_3": (FocalLoss(gamma=3.0, alpha=0.25), "all"),
    "mmseg_ohem_20": (OhemLoss(threshold=0.3, min_kept=20), "all"),
    "mmseg_ohem": (OhemLoss(), "counted"),
    "smp_dice": (DiceLoss(), "all"),
    "smp_focal": (FocalLoss(alpha=None), "counted"),
    "smp_lovasz": (LovaszLoss(), "counted"),
    "smp_smoothing": (CrossEntropyLoss(label_smoothing=0.1), "all"),
    "torch_smoothing": (CrossEntropyLoss(label_smoothing=0.1), "counted"),
}
OBJECTS = [*LOSSES.values(), pixel_loss_function({"cross_entropy": 1.0, "dice": 0.5}, 5)]


def drawn():
    """Labels, validity map and logits of two images; a third of the pixels is ignored."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (2, 8, 9)).astype("uint8")
    masks[rng.random(masks.shape) < 0.3] = 255
    labels, valid = (numpy(x) for x in split_mask(masks, 5))
    return labels, valid, rng.normal(size=(2, 8, 9, 5)).astype("float32")


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_originals(case):
    start = f"losses/{case}/"
    record = {k.removeprefix(start): GOLDEN[k] for k in GOLDEN.files if k.startswith(start)}
    labels, valid = split_mask(record["mask"], 5)
    # Some originals have no class weights.
    names = [name for name in ORIGINALS if name in record]
    assert len(names) >= 8

    def loss_of(name, logits):
        loss, average = ORIGINALS[name]
        options = {"average": average, "class_weight": record.get("class_weight")}
        return pixel_loss(labels, valid, logits, loss=loss, **options)

    def total(*logits):
        return sum(loss_of(name, x) for name, x in zip(names, logits, strict=True))

    found = gradients(total, *[record["logits"]] * len(names))
    for name, gradient in zip(names, found, strict=True):
        value = float(numpy(loss_of(name, record["logits"])))
        np.testing.assert_allclose(value, record[name], rtol=1e-6, err_msg=name)
        expected = record[f"grad_{name}"]
        atol = 2e-6 * abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol, err_msg=name)


def test_every_loss_has_an_original():
    kinds = {type(loss) for loss, _ in ORIGINALS.values()}
    assert kinds == {type(loss) for loss in LOSSES.values()}
    assert list(LOSSES) == ["cross_entropy", "label_smoothing", "ohem", "focal", "dice", "lovasz"]


@pytest.mark.parametrize("average", ["all", "counted"])
def test_without_valid_pixels_loss_and_gradient_are_zero(average):
    labels, valid, logits = drawn()

    def losses(*logits):
        options = {"class_weight": np.ones(5, "float32"), "average": average}
        pairs = zip(OBJECTS, logits, strict=True)
        return [loss(labels * 0, valid * 0, x, **options) for loss, x in pairs]

    several = [logits] * len(OBJECTS)
    assert [float(numpy(value)) for value in losses(*several)] == [0] * len(OBJECTS)
    for gradient in gradients(lambda *x: sum(losses(*x)), *several):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("loss", OBJECTS, ids=str)
def test_a_pixel_of_sample_weight_0_is_ignored(loss):
    labels, valid, logits = drawn()
    if isinstance(loss, OhemLoss):
        loss = OhemLoss(threshold=1.0)  # so that the pixel's rank has no effect
    weight = np.ones_like(valid)
    weight[0, :4] = 0
    # Divided by all valid pixels, whatever their weights, as for the cross-entropy.
    found = loss(labels, valid, logits, sample_weight=weight, average="counted")
    expected = loss(labels, valid * weight, logits, average="counted")
    pixelwise = {LOSSES[name] for name in ("cross_entropy", "label_smoothing", "focal")}
    if loss in pixelwise or isinstance(loss, OhemLoss):
        expected = expected * (valid * weight).sum() / valid.sum()
    elif loss == OBJECTS[-1]:
        fewer = (valid * weight).sum() / valid.sum()
        parts = [
            LOSSES[name](labels, valid * weight, logits, average="counted")
            for name in ("cross_entropy", "dice")
        ]
        expected = parts[0] * fewer + 0.5 * parts[1]
    np.testing.assert_allclose(numpy(found), numpy(expected), rtol=1e-6)


@pytest.mark.parametrize("loss", OBJECTS, ids=str)
def test_padding_counts_nowhere(loss):
    labels, valid, logits = drawn()
    sample_weight = np.full_like(valid, 2.0)
    expected = loss(labels, valid, logits, sample_weight=sample_weight)
    padded = [np.concatenate([x, 0 * x]) for x in (labels, valid, logits, sample_weight)]
    found = loss(*padded[:3], sample_weight=padded[3])
    np.testing.assert_allclose(numpy(found), numpy(expected), rtol=1e-6)


def test_sample_weights_say_how_often_a_pixel_is_there():
    # Two copies of an image are the same as one with weight 2.
    labels, valid, logits = drawn()
    twice = [np.concatenate([x, x[:1]]) for x in (labels, valid, logits)]
    weight = np.array([2.0, 1.0], "float32")[:, None, None] * np.ones_like(valid)
    for loss in (DiceLoss(), LovaszLoss()):
        found = loss(labels, valid, logits, sample_weight=weight)
        np.testing.assert_allclose(numpy(found), numpy(loss(*twice)), rtol=1e-6)


def test_lovasz_is_one_minus_iou_of_certain_predictions():
    labels = np.array([[[0, 0, 1, 1, 2]]], "int32")
    predicted = [0, 1, 1, 1, 2]  # IoU 1/2, 2/3 and 1; class 3 is absent
    logits = 100 * np.eye(4, dtype="float32")[predicted][None, None]
    valid = np.ones((1, 1, 5), "float32")
    assert float(LovaszLoss()(labels, valid, logits)) == pytest.approx((1 / 2 + 1 / 3) / 3, abs=1e-6)
    # Dice 2/3, 4/5 and 1.
    assert float(DiceLoss()(labels, valid, logits)) == pytest.approx((1 / 3 + 1 / 5) / 4, abs=1e-6)


@pytest.mark.parametrize("scale", [0, 1e4])
def test_gradients_of_extreme_logits_are_finite(scale):
    labels, valid, logits = drawn()
    losses = [*LOSSES.values(), FocalLoss(gamma=0.5)]

    def total(*logits):
        return sum(loss(labels, valid, x) for loss, x in zip(losses, logits, strict=True))

    for gradient in gradients(total, *[scale * logits] * len(losses)):
        assert np.isfinite(gradient).all()


def test_a_sum_of_losses():
    labels, valid, logits = drawn()
    options = {"class_weight": np.array([1, 2, 0.5, 1, 1], "float32"), "average": "counted"}

    def double(labels, logits):
        return 2 * keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    focal = FocalLoss(gamma=1.0)
    loss = pixel_loss_function({"cross_entropy": 0.5, focal: 3, double: 0.25}, 5)
    found = pixel_loss(labels, valid, logits, loss=loss, **options)
    expected = pixel_loss(labels, valid, logits, **options) + 3 * focal(
        labels, valid, logits, **options
    )
    np.testing.assert_allclose(numpy(found), numpy(expected), rtol=1e-6)


@pytest.mark.parametrize("loss", OBJECTS, ids=str)
def test_losses_are_saved(loss):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again == loss


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_model_trains_with_all_of_them_and_continues_after_loading(policy, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 48, 3)).astype("uint8")
    masks = (images[..., 0] // 86).astype("uint8")
    masks[:, :4] = 255
    model = tiny(dtype=policy)
    loss = dict.fromkeys(LOSSES, 0.5) | {FocalLoss(gamma=1.5): 1.0}
    model.compile(keras.optimizers.SGD(0.1), loss=loss, class_weight=[1.0, 2.0, 0.5], average="counted")
    values = [float(model.train_on_batch(images, masks)[0]) for _ in range(4)]
    assert np.isfinite(values).all() and values[-1] < values[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    model.reset_metrics()  # Keras 3.13 gives the mean over all calls
    both = [float(m.train_on_batch(images, masks)[0]) for m in (model, loaded)]
    assert both[1] == pytest.approx(both[0], rel=1e-3)


@pytest.mark.parametrize(
    "loss, message",
    [
        ("jaccard", r"`loss` must be one of \['cross_entropy'.*'lovasz'\].*Received: 'jaccard'"),
        (["dice"], r"`loss` must be one of .*Received: \['dice'\]"),
        ({}, r"`loss` must be one of .*a dict of these and their weights.*Received: {}"),
        ({"dice": -1}, r"weights of `loss` must be numbers from 0 up. Received: dice: -1"),
        ({"dice": "1"}, r"weights of `loss` must be numbers from 0 up. Received: dice: '1'"),
        ({"jaccard": 1}, r"`loss` must be one of .*Received: 'jaccard'"),
        ({"poisson": 1}, r"Received: poisson, which takes one-hot"),
    ],
)
def test_what_is_no_loss_is_named(loss, message):
    with pytest.raises(ValueError, match=message):
        pixel_loss_function(loss, 3)


@pytest.mark.parametrize(
    "kind, options, message",
    [
        (CrossEntropyLoss, {"label_smoothing": 1.5}, "`label_smoothing`.*from 0 to 1. Received: 1.5"),
        (FocalLoss, {"gamma": -1}, "`gamma`.*from 0 up. Received: -1"),
        (FocalLoss, {"alpha": 2.0}, "`alpha`.*from 0 to 1. Received: 2.0"),
        (FocalLoss, {"gamma": float("nan")}, "`gamma`.*Received: nan"),
        (OhemLoss, {"threshold": "a"}, "`threshold`.*from 0 to 1. Received: 'a'"),
        (OhemLoss, {"min_kept": 0}, "`min_kept` must be a positive integer. Received: 0"),
    ],
)
def test_invalid_options_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)
