"""Errors and warnings about invalid images and masks name the file, the values and the remedy."""

import warnings

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import Pairs, folder
from keras_encnet.data.checks import check_arrays, check_masks

IMAGE = np.zeros((32, 40, 3), "uint8")
IMAGES = np.full((2, 32, 40, 3), 200, "uint8")


def pairs(*values, labels=None, image=IMAGE):
    """Pairs with masks of equal stripes, one for each given value."""
    masks = [np.repeat(np.array(v), 40 // len(v))[None].repeat(32, 0) for v in values]
    return Pairs([(image, mask) for mask in masks], labels=labels)


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_valid_data_passes():
    check_masks(pairs([0, 1], [2, 255]), 3)
    check_arrays(IMAGES, np.zeros((2, 32, 40, 1), "int64"), 3)
    check_arrays(IMAGES.astype("float32"))


def test_values_outside_the_classes_are_named_with_file_and_count(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i, value in enumerate((0, 1, 7)):
        Image.new("RGB", (40, 32)).save(tmp_path / "images" / f"{i}.jpg")
        mask = np.full((32, 40), value, "uint8")
        mask[0, :5] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    data = folder(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(
        ValueError, match=r"one of the 2 classes.*Received: 7 \(1275 pixels\).*masks/2.png"
    ):
        check_masks(data, 2)
    with pytest.raises(ValueError, match=r"shifted by one.*label_map=.*num_classes=8"):
        check_masks(data, 2)


def test_values_from_1_to_n_may_be_shifted_by_one():
    with pytest.raises(ValueError, match=r"3 \(640 pixels\).*shifted by one.*\{0: 255"):
        check_masks(pairs([1, 2], [2, 3]), 3)
    with pytest.raises(ValueError, match=r"3 \(1280 pixels\), first in mask 1.*shifted by one"):
        check_arrays(IMAGES, np.stack([np.full((32, 40), 1), np.full((32, 40), 3)]), 3)


@pytest.mark.parametrize("ignore_index", [255, 254])
def test_the_suggested_shift_is_correct(ignore_index):
    with pytest.raises(ValueError) as error:
        check_masks(pairs([0, 1], [2, 3]), 3, ignore_index)
    text = str(error.value)
    given = text[text.index("label_map=") + len("label_map=") : text.index(" to keras_encnet")]
    assert eval(given) == {0: ignore_index, 1: 0, 2: 1, 3: 2}


def test_negative_values_are_errors():
    with pytest.raises(ValueError, match=r"-1 \(640 pixels\)"):
        check_masks(pairs([0, -1]), 2)


@pytest.mark.parametrize("values", [([0, 255], [255]), ([1, 255], [1])])
def test_one_class_and_255_are_an_error_only_if_all_masks_are_like_this(values):
    with pytest.raises(ValueError, match=r"label_map=\{255: 1\}"):
        check_masks(pairs(*values), 2)
    check_masks(pairs(*values, [0, 1]), 2)
    with pytest.warns(UserWarning, match=r"label_map=\{255: 1\}"):
        check_masks(pairs(*values), 2, training=False)
    masks = np.zeros((2, 32, 40), "uint8")
    masks[0] = 255
    with pytest.raises(ValueError, match=r"label_map=\{255: 1\}"):
        check_arrays(IMAGES, masks, 2, training=True)


def test_0_and_255_if_255_is_not_ignored():
    with pytest.raises(ValueError, match=r"255 \(640 pixels\).*label_map=\{255: 1\}"):
        check_masks(pairs([0, 255]), 2, ignore_index=254)


def test_masks_with_only_ignored_pixels_are_an_error():
    with pytest.raises(ValueError, match="pixels that are not ignored.*only 255.*label_map="):
        check_masks(pairs([255], [255]), 2)


def test_a_class_without_pixels_is_a_warning_with_its_name():
    data = pairs([0, 2], labels=["sky", "road", "car"])
    with pytest.warns(UserWarning, match=r"No mask has this class: 'road' \(1\)"):
        check_masks(data, 3)
    check_masks(data, 3, training=False)


def test_the_number_of_labels_must_be_that_of_the_classes():
    with pytest.raises(
        ValueError, match="2 class names in the data set, 3 classes in the model.*num_classes="
    ):
        check_masks(pairs([0, 1], labels=["sky", "road"]), 3)


def test_image_and_mask_of_different_size():
    data = Pairs([(IMAGE, np.zeros((40, 32), "uint8"))])
    with pytest.raises(ValueError, match=r"\(32, 40\) and \(40, 32\) .*in pair 0"):
        check_masks(data, 2)


def test_images_under_32_pixels():
    data = Pairs([(np.zeros((31, 40, 3), "uint8"), np.zeros((31, 40), "uint8"))])
    with pytest.raises(ValueError, match="pair 0 must have 32 pixels or more.*31×40"):
        check_masks(data, 2)
    with pytest.raises(ValueError, match="32 pixels or more.*31×40"):
        check_arrays(np.zeros((1, 31, 40, 3), "uint8"))


def test_an_empty_data_set():
    with pytest.raises(ValueError, match="empty"):
        check_masks(Pairs([]), 2)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((32, 40, 3)), r"images\[None\]"),
        (np.zeros((1, 32, 40, 4), "uint8"), "4 channels.*RGBA"),
        (np.zeros((1, 32, 40, 1), "uint8"), "1 channels.*grey"),
        (np.zeros((1, 3, 32, 40), "uint8"), "channels-first"),
        (np.zeros((1, 32, 40, 3), bool), "dtype bool"),
        (np.full((2, 32, 40, 3), np.nan, "float32"), "NaN.*image 0"),
        (np.full((2, 32, 40, 3), np.inf, "float16"), "infinity"),
    ],
)
def test_invalid_images(images, message):
    with pytest.raises(ValueError, match=message):
        check_arrays(images)


@pytest.mark.parametrize(
    "images, message",
    [
        (IMAGES / 255, r"scaled to \[0, 1\]"),
        (IMAGES / 127.5 - 2.0, r"\[0, 255\].*from -0.43\d* to -0.43"),
        (IMAGES.astype("uint16") * 257, r"\[0, 255\].*51400"),
    ],
)
def test_images_in_another_range_are_a_warning(images, message):
    with pytest.warns(UserWarning, match=message):
        check_arrays(images)


@pytest.mark.parametrize(
    "masks, message",
    [
        (np.zeros((2, 32, 40), "float32"), "dtype float32.*astype"),
        (np.zeros((2, 32, 41), "uint8"), r"\(2, 32, 40, 3\).*Received: shape \(2, 32, 41\)"),
        (np.zeros((1, 32, 40), "uint8"), r"Received: shape \(1, 32, 40\)"),
        (np.zeros((2, 32, 40, 5), "uint8"), "one-hot.*argmax"),
    ],
)
def test_invalid_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        check_arrays(IMAGES, masks, 5)
