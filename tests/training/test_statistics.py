"""What datasets are warned of, by hand."""

import re

import numpy as np
import pytest

from keras_encnet.data.checks import MaskError, check_arrays
from keras_encnet.training.statistics import DataStatistics

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype("float32")
IMAGES[0, 0, 0] = 0, 99.5, 255
LABELS = np.random.default_rng(1).integers(0, 3, (2, 4, 5), dtype="uint8")
LABELS[:, 0, :3] = 0, 1, 2


def problems(images, masks, **options):
    statistics = DataStatistics(**{"num_classes": 3, "ignore_index": 255} | options)
    for i in range(2):
        statistics.update_state(images[i : i + 1], masks[i : i + 1])
    assert statistics.result() == {}  # nothing is logged
    found = statistics.image_problems("the training data")
    return {**found, **statistics.mask_problems("the training data", complete=True)}


@pytest.mark.parametrize(
    "images, kind, message",
    [
        (
            IMAGES / 255,
            "scaled",
            r"floats up to 1, which look scaled to \[0, 1\], in the training data.*by 255",
        ),
        (IMAGES - 300, "out of range", r"100 % of the values are below 0 and 0 % above 255"),
        (IMAGES / 127.5 - 1, "out of range", r"below 0 and 0 % above 255.*original values"),
        (np.where(IMAGES == 99.5, np.nan, IMAGES), "not finite", "1 values that are NaN or infinity"),
        (np.where(IMAGES == 99.5, np.inf, IMAGES), "not finite", "1 values that are NaN or infinity"),
    ],
)
def test_images(images, kind, message):
    found = problems(images.astype("float32"), LABELS)
    assert list(found) == [kind] and re.search(message, found[kind]), found


def test_images_that_are_as_they_should_be():
    for images in (IMAGES, IMAGES.astype("uint8"), IMAGES.astype("uint8") // 255, IMAGES * 0):
        assert problems(images, LABELS) == {}
    for images in (IMAGES.astype("int32"), IMAGES.astype("uint16"), IMAGES.astype("int32") // 255):
        assert problems(images, LABELS) == {}


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32"])
def test_images_of_other_integers(dtype):
    images = IMAGES.astype("int32") * 100
    found = problems(images.astype(dtype), LABELS)
    above = 100 * (images > 255).mean()
    assert re.search(rf" 0 % .* below 0 and {above:.3g} % above 255.*16-bit", found["out of range"])


@pytest.mark.parametrize(
    "masks, kinds, message",
    [
        (LABELS // 2 * 255, ["one class"], r"only 0 and 255, which.*foreground.*\{255: 1\}"),
        (LABELS * 0 + 255, ["ignored"], "only 255, which is ignored, in the training data"),
        (LABELS // 2 * 2, ["absent"], r"no mask of the training data had this class: 1. The"),
        (LABELS + 1, ["invalid", "absent"], r"shifted by one \(no pixel is 0\)"),
        (
            np.where(LABELS == 1, 3, LABELS),
            ["invalid", "absent"],
            r"likely 3 marks .*If 0 marks",
        ),
        (
            LABELS + 74,
            ["invalid"],
            r"one of the 3 classes \(0 to 2\) or 255.*7[456] \(\d+ pixels\).*They are ignored",
        ),
        (np.where(LABELS == 1, 255, 0), ["one class"], r"only 0 and 255"),
        (LABELS.astype("int32") - 300, ["invalid"], r"Received: below 0 \(40 pixels\)"),
        (LABELS.astype("int32") + 300, ["invalid"], r"Received: above 255 \(40 pixels\)"),
    ],
)
def test_masks(masks, kinds, message):
    found = problems(IMAGES, masks)
    assert list(found) == kinds and re.search(message, str(found[kinds[0]])), found


def test_masks_of_models_that_ignore_another_value():
    void = np.where(LABELS == 2, 255, LABELS)
    assert list(problems(IMAGES, void, num_classes=2)) == []
    found = problems(IMAGES, void, num_classes=2, ignore_index=11)
    assert "Most likely 255 marks pixels without a class" in str(found["invalid"])
    found = problems(IMAGES, LABELS // 2 * 255, num_classes=2, ignore_index=11)
    assert "Most likely 255 is the foreground" in str(found["invalid"])
    found = problems(IMAGES, LABELS // 2 * 255, num_classes=1)
    assert found["one class"].readings[0].num_classes == 2  # as of arrays
    wide = np.where(LABELS == 2, 65535, LABELS.astype("int32"))
    assert problems(IMAGES, wide, num_classes=2, ignore_index=65535) == {}
    found = problems(IMAGES, LABELS // 2, labels=["sky", "road", "car"])
    assert "this class: 'car' (2)" in str(found["absent"])


def test_evaluation_data_may_lack_classes():
    statistics = DataStatistics(3, 255)
    statistics.update_state(None, LABELS // 2)
    assert statistics.mask_problems("the validation data", complete=False) == {}


@pytest.mark.parametrize(
    "num_classes, masks",
    [(2, LABELS // 2 * 255), (3, LABELS * 0 + 255), (3, LABELS + 1), (3, LABELS + 74)],
)
def test_datasets_are_advised_as_arrays_are(num_classes, masks):
    (kind, warning), *_ = problems(IMAGES, masks, num_classes=num_classes).items()
    images = np.zeros((2, 32, 40, 3), "uint8")
    # The same shares of the values.
    large = masks.repeat(8, axis=1).repeat(8, axis=2)
    with pytest.raises(MaskError) as error:
        check_arrays(images, large, num_classes, training=True)
    assert warning.readings == error.value.readings
    found = without_places(warning.found.replace(" They are ignored.", ""))
    assert found == without_places(error.value.found)


def test_images_of_datasets_are_told_as_those_of_arrays_are():
    scaled = np.clip(np.tile(IMAGES, (1, 8, 8, 1)) / 255, 0, 1)
    with pytest.warns(UserWarning) as told:
        check_arrays(scaled)
    found = problems(IMAGES / 255, LABELS)["scaled"]
    assert without_places(found).replace(", in the", " in the") == str(told[0].message)


def without_places(message):
    """A message without where the values are, and how many."""
    return re.sub(r",? (in the training data|first in mask \d)|\d+ pixels", "", message)
