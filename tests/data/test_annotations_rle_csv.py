"""Kaggle's tables of run-length codes, in the columns of several competitions."""

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data.annotations import kaggle_rle, rle_csv


@pytest.fixture
def here(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c_1.jpg"):
        Image.new("RGB", (48, 32), "grey").save(tmp_path / "images" / name)
    for foreign in (".DS_Store", "Thumbs.db", "._a.jpg"):
        (tmp_path / "images" / foreign).write_bytes(b"x")
    return tmp_path


def read(here, text, **options):
    (here / "train.csv").write_text(text, encoding="utf-8")
    return rle_csv(here / "train.csv", here / "images", **options)


def code(top, left, bottom, right):
    mask = np.zeros((32, 48), bool)
    mask[top:bottom, left:right] = True
    return kaggle_rle(mask)


def test_one_class_several_rows_and_empty_codes(here):
    # Airbus Ship Detection
    pairs = read(here, f"ImageId,EncodedPixels\nb.jpg,{code(0, 0, 2, 2)}\na.jpg,\nb.jpg,1537 0\n"
                 f"b.jpg,{code(9, 9, 12, 12)}\n".replace("1537 0", "-1"), labels=["ship"])  # fmt: skip
    assert pairs.labels == ("background", "ship") and pairs.palette.shape == (2, 3)
    assert [pairs.name(i) for i in range(len(pairs))] == ["b", "a"]
    image, mask = pairs[0]
    assert image.shape == (32, 48, 3) and mask.dtype == "uint8"
    assert mask[:2, :2].all() and mask[9:12, 9:12].all() and np.count_nonzero(mask) == 13
    assert not pairs.mask(1).any()
    assert "train.csv" in pairs.where(0) and pairs.files(0) == (str(here / "images/b.jpg"), None)


def test_a_column_of_classes(here):
    # Severstal: Steel Defect Detection
    text = f"ImageId,ClassId,EncodedPixels\na.jpg,10,{code(0, 0, 2, 2)}\na.jpg,3,{code(4, 4, 6, 6)}\n"
    pairs = read(here, text)
    assert pairs.labels == ("background", "3", "10")
    assert pairs.mask(0)[0, 0] == 2 and pairs.mask(0)[4, 4] == 1
    pairs = read(here, text, labels={1: "scratch", 3: "dent", 10: "hole"})
    assert pairs.labels == ("background", "scratch", "dent", "hole")
    assert pairs.mask(0)[0, 0] == 3 and pairs.mask(0)[4, 4] == 2
    with pytest.raises(ValueError, match=r"must be in `labels`, \['3'\]. Received: '10'"):
        read(here, text, labels=["3"])


def test_an_image_without_objects_has_no_class(here):
    text = f"ImageId,ClassId,EncodedPixels\na.jpg,1,{code(0, 0, 2, 2)}\nb.jpg,,\n"
    for labels, names in ((None, ("background", "1")), ({1: "dent"}, ("background", "dent"))):
        pairs = read(here, text, labels=labels)
        assert pairs.labels == names and pairs.mask(0)[0, 0] == 1
        assert pairs.name(1) == "b" and not pairs.mask(1).any()
    with pytest.raises(ValueError, match=r"must be in `labels`, \['1'\]. Received: ''"):
        read(here, f"ImageId,ClassId,EncodedPixels\na.jpg,,{code(0, 0, 2, 2)}\n", labels=["1"])


@pytest.mark.parametrize("column", ["ImageId_ClassId", "Image_Label"])
def test_image_and_class_in_one_column(here, column):
    # Severstal's first form, and Understanding Clouds from Satellite Images
    text = f"{column},EncodedPixels\na.jpg_Fish,{code(0, 0, 2, 2)}\na.jpg_Sugar,\nc_1.jpg_Sugar,1 1\n"
    pairs = read(here, text)
    assert pairs.labels == ("background", "Fish", "Sugar")
    assert pairs.mask(0)[0, 0] == 1 and pairs.mask(1)[0, 0] == 2 and pairs.name(1) == "c_1"


def test_names_without_endings_and_other_columns(here):
    # TGS Salt Identification
    pairs = read(here, f"\ufeffid,rle_mask,depth\nc_1,{code(0, 0, 2, 2)},7\n")
    assert pairs.labels == ("background", "foreground") and np.count_nonzero(pairs.mask(0)) == 4


def test_images_in_directories(here):
    (here / "images" / "ulm").mkdir()
    Image.new("RGB", (48, 32)).save(here / "images" / "ulm" / "a.png")
    pairs = read(here, "ImageId,EncodedPixels\nulm/a,1 1\na.jpg,2 2\n")
    assert [pairs.name(i) for i in range(2)] == ["ulm/a", "a"]
    assert pairs.mask(0).sum() == 1 and pairs.mask(1).sum() == 2


def test_smaller_masks_are_on_top(here):
    large, small = code(0, 0, 20, 20), code(4, 4, 6, 6)
    for rows in ([("x", large), ("y", small)], [("y", small), ("x", large)]):
        lines = "\n".join(f"a.jpg,{name},{text}" for name, text in rows)
        mask = read(here, f"ImageId,ClassId,EncodedPixels\n{lines}\n").mask(0)
        assert mask[5, 5] == 2 and mask[0, 0] == 1


def test_without_background_uncovered_pixels_are_ignored(here):
    pairs = read(here, "ImageId,EncodedPixels\na.jpg,1 4\n", labels=["ship"], background=None)
    assert pairs.labels == ("ship",) and pairs.mask(0)[0, 0] == 0 and pairs.mask(0)[9, 9] == 255


def test_codes_longer_than_the_limit_of_csv(here):
    checkered = np.indices((200, 200)).sum(axis=0) % 2 == 1
    Image.new("RGB", (200, 200)).save(here / "images" / "d.png")
    text = kaggle_rle(checkered)
    assert len(text) > 131_072
    assert (read(here, f"ImageId,EncodedPixels\nd,{text}\n").mask(0) == checkered).all()


@pytest.mark.parametrize(
    "text, message",
    [
        ("ImageId,Height\na.jpg,7\n", r"Received: the columns \['ImageId', 'Height'\]. Rename them"),
        ("", r"Received: the columns \[\]"),
        ("ImageId,EncodedPixels\n", "must have a line or more below its header"),
        ("ImageId,EncodedPixels\na.jpg,1 1,7\n", "must have 2 cells. Received: 3 in line 2"),
        ("ImageId,EncodedPixels\nz.jpg,\n", "1 of 1 missing, z.jpg"),
    ],
)
def test_invalid_tables_are_errors_that_name_them(here, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(here, text)
    assert "train.csv" in str(error.value)


def test_invalid_codes_are_errors_that_name_the_line(here):
    pairs = read(here, "ImageId,EncodedPixels\na.jpg,1 1\na.jpg,1530 9\n")
    with pytest.raises(ValueError, match=r"line 3 of .*train.csv.*a.jpg.* start 1530, length 9"):
        pairs.mask(0)


def test_an_image_with_two_files_is_an_error(here):
    Image.new("RGB", (48, 32)).save(here / "images" / "a.png")
    with pytest.raises(ValueError, match=r"must have one file. Received: .*a.jpg and .*a.png for 'a'"):
        read(here, "ImageId,EncodedPixels\na,1 1\n")
    assert len(read(here, "ImageId,EncodedPixels\na.jpg,1 1\na.png,1 1\n")) == 2


def test_missing_files_are_errors(here):
    with pytest.raises(FileNotFoundError, match="There is no annotation file '.*none.csv'"):
        rle_csv(here / "none.csv", here / "images")
    (here / "train.csv").write_text("ImageId,EncodedPixels\na.jpg,1 1\n")
    with pytest.raises(FileNotFoundError, match="Received: '.*none', which is no directory"):
        rle_csv(here / "train.csv", here / "none")


def test_without_a_column_of_classes_there_is_one_name(here):
    with pytest.raises(ValueError, match="must have the name of one class"):
        read(here, "ImageId,EncodedPixels\na.jpg,1 1\n", labels=["a", "b"])


@pytest.mark.parametrize(
    "labels, remedy",
    [
        (["scratch", "dent"], "labels={3: 'scratch', 10: 'dent'}"),
        (["scratch"], "labels={3: 'name of 3', 10: 'name of 10'}"),
        ({1: "scratch"}, "labels={3: 'name of 3', 10: 'name of 10'}"),
    ],
)
def test_unknown_classes_are_all_named_with_the_dict_to_give(here, labels, remedy):
    text = "ImageId,ClassId,EncodedPixels\na.jpg,10,1 1\na.jpg,3,9 1\n"
    with pytest.raises(ValueError, match="Received: '3', '10'. Name each class") as error:
        read(here, text, labels=labels)
    assert remedy in str(error.value)
    with pytest.raises(ValueError, match="Received: '10'. Add them."):
        read(here, text, labels=["3"])


def test_images_one_level_too_high_or_low_are_found(here):
    (here / "images" / "empty").mkdir()
    text = "ImageId,EncodedPixels\na,1 1\nb.jpg,1 1\n"
    assert len(read(here, text)) == 2
    for directory, received in (
        (here / "images" / "empty", "2 of 2 missing"),
        (here / "photos", "which is no directory"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=received) as error:
            rle_csv(here / "train.csv", directory)
        assert f"They are in '{here}/images': give it as `images`" in str(error.value)
    with pytest.raises(FileNotFoundError, match="is a directory. Give .*: '?.*train.csv"):
        rle_csv(here, here / "images")
