"""The table of public data sets, and the functions that open them."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import camvid
from keras_encnet.data.checks import check_masks
from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.data.datasets import list_datasets

CAMVID = pathlib.Path(__file__).parents[3] / "shared" / "camvid"


@pytest.fixture
def directory(tmp_path):
    """CamVid with one pair in each of two splits: `val` is void, `test` is a car."""
    for split, value in (("val", 11), ("test", 8)):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        Image.new("RGB", (48, 32), (1, 2, 3)).save(tmp_path / split / "a.png")
        Image.new("L", (48, 32), value).save(tmp_path / f"{split}annot" / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    "name, num_classes",
    [("ADE20K", 150), ("Cityscapes", 19), ("PASCAL-Context", 59), ("CamVid", 11)],
)
def test_a_row_has_a_name_and_a_colour_for_each_class(name, num_classes):
    dataset = list_datasets()[name]
    assert dataset.name == name
    assert len(set(dataset.labels)) == len(dataset.labels) == num_classes
    assert dataset.palette.shape == (num_classes, 3) and dataset.palette.dtype == "uint8"


def test_label_maps_lead_to_classes_or_are_ignored():
    for dataset in list_datasets().values():
        labels = {*range(len(dataset.labels)), IGNORE_INDEX}
        for value, label in (dataset.label_map or {}).items():
            assert isinstance(value, int) and label in labels, dataset.name


def test_a_row_with_splits_has_images_and_masks():
    for dataset in list_datasets().values():
        assert bool(dataset.splits) == bool(dataset.images) == bool(dataset.masks), dataset.name
        if dataset.splits:
            assert "{split}" in dataset.images and "{split}" in dataset.masks, dataset.name


def test_camvid_has_its_classes_and_ignores_void(directory):
    pairs = camvid(directory, "val")
    assert len(pairs.labels) == len(pairs.palette) == 11
    assert pairs.labels[8] == "car" and pairs.palette[8].tolist() == [64, 0, 128]
    assert set(pairs[0][1].ravel()) == {255}
    with pytest.raises(ValueError, match="'train', 'val', 'test'.*'validation'"):
        camvid(directory, "validation")


def test_camvid_keeps_its_splits_apart(directory):
    image, mask = camvid(str(directory), "test")[0]
    assert np.unique(mask).tolist() == [8] and image[0, 0].tolist() == [1, 2, 3]


def test_a_missing_directory_is_named(directory):
    with pytest.raises(FileNotFoundError, match="`images`.*train', neither a directory"):
        camvid(directory)
    (directory / "testannot" / "a.png").unlink()
    (directory / "testannot").rmdir()
    with pytest.raises(FileNotFoundError, match="`masks`.*testannot', neither a directory"):
        camvid(directory, "test")


@pytest.mark.skipif(not CAMVID.exists(), reason="CamVid is not installed")
def test_the_real_camvid():
    pairs = camvid(CAMVID, "val")
    assert len(pairs) == 101 and pairs[0][0].shape == (360, 480, 3)
    check_masks(pairs[:10], 11)
