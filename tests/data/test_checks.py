"""Errors and warnings about invalid images and masks name the file, the values and the remedy."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_encnet.data import Pairs, batches, folder
from keras_encnet.data.checks import (
    TURN_MASKS,
    MaskError,
    MaskWarning,
    check_arrays,
    check_masks,
    value_counts,
)

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
    with pytest.raises(ValueError, match=r"label_map=\{7: 255\}.*num_classes=8"):
        check_masks(data, 2)


def test_values_from_1_to_n_may_be_shifted_by_one():
    with pytest.raises(ValueError, match=r"3 \(640 pixels\).*shifted by one.*\{0: 255"):
        check_masks(pairs([1, 2], [2, 3]), 3)
    with pytest.raises(ValueError, match=r"3 \(1280 pixels\), first in mask 1.*shifted by one"):
        check_arrays(IMAGES, np.stack([np.full((32, 40), 1), np.full((32, 40), 3)]), 3)


@pytest.mark.parametrize("ignore_index", [255, 254])
def test_the_suggested_shift_is_correct(ignore_index):
    with pytest.raises(ValueError) as error:
        check_masks(pairs([1, 1], [2, 3]), 3, ignore_index)
    text = str(error.value)
    given = text[text.index("label_map=") + len("label_map=") : text.index(" to keras_encnet")]
    assert eval(given) == {0: ignore_index, 1: 0, 2: 1, 3: 2}


def test_negative_values_are_errors():
    with pytest.raises(ValueError, match=r"-1 \(640 pixels\)"):
        check_masks(pairs([0, -1]), 2)


@pytest.mark.parametrize(
    "values, remedy",
    [
        (([0, 255], [255]), r"foreground: .*label_map=\{255: 1\}"),
        (([1, 255], [1]), r"background: .*label_map=\{255: 0\}"),
    ],
)
def test_one_class_and_255_are_an_error_only_if_all_masks_are_like_this(values, remedy):
    with pytest.raises(ValueError, match=remedy):
        check_masks(pairs(*values), 2)
    check_masks(pairs(*values, [0, 1]), 2)
    with pytest.warns(UserWarning, match=remedy):
        check_masks(pairs(*values), 2, training=False)
    masks = np.zeros((2, 32, 40), "uint8")
    masks[0] = 255
    with pytest.raises(ValueError, match=r"label_map=\{255: 1\}"):
        check_arrays(IMAGES, masks, 2, training=True)


def test_0_and_255_if_255_is_not_ignored():
    with pytest.raises(ValueError, match=r"255 \(640 pixels\).*label_map=\{255: 1\}"):
        check_masks(pairs([0, 255]), 2, ignore_index=254)


def advice(error):
    """The readings of an error or warning: (label_map, num_classes) of each."""
    return [(reading.label_map, reading.num_classes) for reading in error.readings]


SHIFT = {0: 255, 1: 0, 2: 1, 3: 2}


@pytest.mark.parametrize(
    "values, num_classes, expected",
    [
        # A void label after the classes, as CamVid's 11: 0 is frequent.
        ([[0, 1], [2, 3]], 3, [({3: 255}, None), (SHIFT, None), (None, 4)]),
        # Shifted by one, 0 missing or rare.
        ([[1, 2], [2, 3]], 3, [(SHIFT, None), ({3: 255}, None), (None, 4)]),
        ([[1, 2], [2, 3]] * 20 + [[0] + [1] * 39], 3, [(SHIFT, None), ({3: 255}, None), (None, 4)]),
        # Void labels far from the classes.
        ([[0, 1], [1, -1]], 2, [({-1: 255}, None)]),
        ([[0, 1], [1, 254]], 2, [({254: 255}, None)]),
        ([[0, 1], [254, -1]], 2, [({-1: 255, 254: 255}, None)]),
        ([[0, 1], [1, 7]], 2, [({7: 255}, None), (None, 8)]),
        # Labels spread over shades of grey. 255 is then a class, though it is the value to ignore.
        ([[0, 51], [102, 204], [153, 255]], 6, [({51: 1, 102: 2, 153: 3, 204: 4, 255: 5}, None)]),
        ([[0, 128], [255, 255]], 3, [({128: 1, 255: 2}, None)]),
        ([[0, 128]], 2, [({128: 1}, None)]),
        # No value is a class.
        ([[5, 5]], 2, [(None, 6), ({5: 255}, None)]),
        ([[5, 7]], 2, [(None, 8), ({5: 255, 7: 255}, None)]),
        ([[9, 10], [11, 12]], 4, [({9: 0, 10: 1, 11: 2, 12: 3}, None), (None, 13)]),
        ([[9, 10], [12, 255]], 2, [(None, 13), ({9: 255, 10: 255, 12: 255}, None)]),
        # More classes than the model has.
        ([[0, 1], [2, 3], [4, 5]], 3, [(None, 6), ({3: 255, 4: 255, 5: 255}, None)]),
        ([[1, 2], [3, 3]], 2, [({0: 255, 1: 0, 2: 1, 3: 2}, 3), ({2: 255, 3: 255}, None)]),
        # Neither: blended values.
        ([[0, 17], [88, 143]], 2, [(None, None), ({17: 255, 88: 255, 143: 255}, None), (None, 144)]),
        ([[0, -9], [-8, -7], [-6, 1]], 2, [(None, None), (dict.fromkeys(range(-9, -5), 255), None)]),
        # One class: the background counts.
        ([[0, 1]], 1, [(None, 2)]),
        ([[0, 1], [255, 255]], 1, [(None, 2)]),
        ([[0, 255]], 1, [({255: 1}, 2)]),
    ],
)
def test_the_histogram_decides_which_advice_comes_first(values, num_classes, expected):
    with pytest.raises(MaskError) as error:
        check_masks(pairs(*values), num_classes)
    assert advice(error.value) == expected
    masks = np.stack([mask for image, mask in pairs(*values)])
    images = np.zeros((*masks.shape, 3), "uint8")
    with pytest.raises(MaskError) as error:
        check_arrays(images, masks, num_classes, training=True)
    assert advice(error.value) == expected


@pytest.mark.parametrize(
    "values",
    [[[0, 1], [2, 3]], [[1, 2], [3, 255]], [[0, 128], [128, 255]], [[4, 5], [6, 255]]],
)
def test_data_passes_after_the_first_advice(values):
    with pytest.raises(MaskError) as error:
        check_masks(pairs(*values), 3)
    text = str(error.value)
    masks = np.stack([mask for image, mask in pairs(*values)])
    label_map = error.value.readings[0].label_map
    expected = np.vectorize(lambda value: label_map.get(value, value))(masks)
    scope = {"np": np, "masks": masks}
    exec(text.split("change arrays: ")[1].split(". ")[0].rstrip("."), scope)
    np.testing.assert_array_equal(scope["masks"], expected)
    check_arrays(np.zeros((*masks.shape, 3), "uint8"), expected, 3)


def test_255_is_a_class_if_there_are_more():
    with pytest.warns(UserWarning, match="No mask has"):
        check_masks(pairs([0, 255], [65535, 1]), 300)
    with pytest.raises(MaskError, match=r"300 \(640 pixels\)"):
        check_masks(pairs([0, 300], [65535, 255]), 300)
    check_arrays(IMAGES, np.full((2, 32, 40), 255), 300)


def test_the_same_advice_in_the_words_of_the_command_line():
    with pytest.raises(MaskError) as error:
        check_masks(pairs([0, 1], [2, 3]), 3)
    text = error.value.text(command_line=True)
    first, shift, more = "--label-map 3:255", "--label-map 0:255 1:0 2:1 3:2", "--num-classes 4"
    assert text.index(first) < text.index(shift) < text.index(more)
    assert "label_map" not in text and "num_classes" not in text and "--labels" in text
    assert error.value.found in text and "(0 has 25.0% of the pixels)" in text
    with pytest.warns(MaskWarning) as warned:
        check_masks(pairs([0, 255]), 2, training=False)
    assert "--label-map 255:1" in warned[0].message.text(command_line=True)


def files(here, mask, ending="png", turned=1, size=(64, 48)):
    """Pairs of one image file, of an EXIF orientation, and its mask."""
    for part in ("images", "masks"):
        (here / part).mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.new("RGB", size).save(here / "images" / "a.jpg", exif=exif)
    mask.save(here / "masks" / f"a.{ending}")
    return folder(here / "images", here / "masks")


@pytest.mark.parametrize("quality, kind", [(100, MaskWarning), (75, MaskError)])
def test_jpeg_masks_are_named(tmp_path, quality, kind):
    # Two flat halves survive, a fine pattern does not.
    labels = np.zeros((48, 64), "uint8")
    labels[:, 32:] = 1
    if kind is MaskError:
        labels = np.random.default_rng(0).integers(0, 2, (48, 64), dtype="uint8") * 7 // 4
    path = tmp_path / "written.jpg"
    Image.fromarray(labels).save(path, quality=quality)
    values = set(np.unique(np.asarray(Image.open(path))).tolist())
    assert values == {0, 1} or kind is MaskError
    data = files(tmp_path, Image.open(path), "png")
    (tmp_path / "masks" / "a.png").write_bytes(path.read_bytes())  # the ending does not matter
    message = r"masks/a.png.*JPEG changes values.*cannot be known.*PNG"
    if kind is MaskWarning:
        with pytest.warns(MaskWarning, match="1 of 1 masks as JPEG.*" + message):
            check_masks(data, 2)
    else:
        with pytest.raises(MaskError, match=message):
            check_masks(data, 1, ignore_index=254)


@pytest.mark.parametrize("turned", [5, 6, 7, 8])
def test_masks_of_images_that_exif_turns(tmp_path, turned):
    labels = np.arange(48 * 64, dtype="uint8").reshape(48, 64) % 5
    data = files(tmp_path, Image.fromarray(labels), turned=turned)
    for read in (lambda: data[0], lambda: check_masks(data, 5), lambda: check_masks(data[:].load(), 5)):
        with pytest.raises(ValueError, match=f"turned alike.*masks/a.png.*EXIF orientation {turned}"):
            read()
    image_path, mask_path = data.files(0)
    exec(TURN_MASKS, vars() | {"Image": Image, "ImageOps": ImageOps})
    image, mask = data[0]
    # Each label is where Pillow puts it if it turns an image with the labels as values.
    stored = Image.fromarray(labels)
    stored.getexif()[0x0112] = turned
    np.testing.assert_array_equal(mask, np.asarray(ImageOps.exif_transpose(stored)))


def test_masks_that_exif_turns_and_their_images_not(tmp_path):
    labels = np.arange(48 * 64, dtype="uint8").reshape(48, 64) % 5
    data = files(tmp_path, Image.fromarray(labels))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(labels).save(data.files(0)[1], exif=exif)
    with pytest.raises(ValueError, match="turned alike.*EXIF orientation 6 turns the mask, and none"):
        check_masks(data, 5)
    image_path, mask_path = data.files(0)
    exec(TURN_MASKS, vars() | {"Image": Image, "ImageOps": ImageOps})
    np.testing.assert_array_equal(data[0][1], labels)


def test_other_sizes_are_not_taken_for_turned_ones(tmp_path):
    data = files(tmp_path, Image.new("L", (48, 64)))
    with pytest.raises(ValueError, match="same size.*Resize the mask"):
        data[0]
    data = files(tmp_path, Image.new("L", (64, 40)), turned=6)
    with pytest.raises(ValueError, match="same size.*Resize the mask"):
        data[0]


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.zeros((32, 40, 2), "uint8"), "pair 0.*argmax"),
        (np.zeros((32, 40, 1), "uint8"), r"pair 0.*mask\[..., 0\]"),
        (np.zeros((32, 40), "float32"), "dtype float32 in pair 0.*astype"),
        (np.zeros((32, 40), bool), "dtype bool in pair 0.*astype"),
    ],
)
def test_masks_of_pairs_are_checked_as_arrays_are(mask, message):
    data = Pairs([(IMAGE, mask)])
    with pytest.raises(ValueError, match=message):
        check_masks(data, 2)
    with pytest.raises(ValueError, match=message):
        batches(data, size=(32, 32), batch_size=1)[0]


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


def test_a_mask_of_many_pixels_is_counted_in_parts(monkeypatch):
    mask = np.random.default_rng(0).integers(0, 256, (50, 70), dtype="uint8")
    expected = np.unique(mask, return_counts=True)
    np.testing.assert_array_equal(value_counts(mask.astype("int32")), expected)
    for counted in (7, 3499, 3500, 3501):
        monkeypatch.setattr("keras_encnet.data.checks.COUNTED", counted)
        np.testing.assert_array_equal(value_counts(mask), expected)


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


def test_long_shifts_are_spelled_as_ranges():
    masks = np.arange(60, 100)[None].repeat(32, 0)
    with pytest.raises(MaskError, match="Most likely the labels are shifted by 60") as error:
        check_masks(Pairs([(IMAGE, masks)]), 40)
    text = str(error.value)
    given = text[text.index("label_map=") + len("label_map=") : text.index(" to keras_encnet")]
    assert eval(given) == error.value.readings[0].label_map == {60 + i: i for i in range(40)}
    masks[0] = 255
    scope = {"np": np, "masks": masks.astype("uint8")}
    exec(text.split("change arrays: ")[1].split(". ")[0].rstrip("."), scope)
    assert scope["masks"][0].tolist() == [255] * 40 and scope["masks"][1].tolist() == list(range(40))


@pytest.mark.parametrize("num_classes", [None, 1.5, "a", True])
def test_a_number_of_classes_that_is_none_is_refused(num_classes):
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer. Received: "):
        check_masks(pairs([0, 1]), num_classes)
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer. Received: "):
        check_arrays(IMAGES, np.zeros((2, 32, 40), "uint8"), num_classes)


def test_a_batch_may_have_one_class_or_none():
    for value in (1, 255):
        masks = np.full((2, 32, 40), value, "uint8")
        masks[0] = 255
        check_arrays(IMAGES, masks, 2, complete=False)
    masks[1] = 7
    with pytest.raises(MaskError, match="7 .1280 pixels., first in mask 1"):
        check_arrays(IMAGES, masks, 2, complete=False)
