"""The files of `evaluate(save_predictions=…)`, read by others."""

import csv

import numpy as np
import pytest
from fake_net import FakeNet, image
from PIL import Image

from keras_encnet import data
from keras_encnet.data.annotations.rle import from_kaggle_rle
from keras_encnet.data.datasets import cityscapes
from keras_encnet.inference import evaluate, segment
from keras_encnet.inference.predictions import Predictions
from keras_encnet.inference.segmentation import Segmentation


class Model(FakeNet):
    name, ignore_index, weights = "fake", 255, ()

    class dtype_policy:
        name = "float32"

    def get_config(self):
        return {}


def result(num_classes, height=40, width=52):
    """A label map that has many of the classes."""
    label_map = (np.arange(height * width) // 11 % num_classes).reshape(height, width)
    labels = [f"class {i}" for i in range(num_classes)]
    return Segmentation(image(height, width), label_map.astype("uint8"), labels)


def test_palette_files_hold_the_classes_and_their_colours(tmp_path):
    found = result(5)
    Predictions(tmp_path, "png", FakeNet(5)).write("a/b", found)
    read = Image.open(tmp_path / "a" / "b.png")
    assert read.mode == "P" and (np.array(read) == found.label_map).all()
    assert (np.array(read.convert("RGB")) == found.palette[found.label_map]).all()


def test_cityscapes_files_are_read_as_its_masks(tmp_path):
    found = result(19)
    name = "bonn_000003_000019"
    for place in (tmp_path / "leftImg8bit" / "val" / "bonn", tmp_path / "gtFine" / "val" / "bonn"):
        place.mkdir(parents=True)
    Image.fromarray(found.image).save(
        tmp_path / "leftImg8bit" / "val" / "bonn" / f"{name}_leftImg8bit.png"
    )
    predictions = Predictions(tmp_path / "out", "cityscapes", FakeNet(19))
    predictions.write(f"bonn/{name}_leftImg8bit", found)
    written = tmp_path / "out" / f"{name}_leftImg8bit.png"
    assert Image.open(written).mode == "L"
    written.rename(tmp_path / "gtFine" / "val" / "bonn" / f"{name}_gtFine_labelIds.png")
    ((_, mask),) = cityscapes(tmp_path, "val")
    assert (mask == found.label_map).all()


def test_cityscapes_server_finds_images_by_city_sequence_and_frame(tmp_path):
    predictions = Predictions(tmp_path, "cityscapes", FakeNet(19))
    with pytest.raises(ValueError, match="city, sequence and frame.*Received: 'photo_1'"):
        predictions.write("bonn/photo_1", result(19))
    with pytest.raises(ValueError, match="a model of the 19 classes.*Received: a model of 5"):
        Predictions(tmp_path, "cityscapes", FakeNet(5))


def test_ade20k_files_count_from_1(tmp_path):
    found = result(150)
    Predictions(tmp_path, "ade20k", FakeNet(150)).write("ADE_val_00000001", found)
    read = Image.open(tmp_path / "ADE_val_00000001.png")
    assert read.mode == "L" and (np.array(read) == found.label_map + 1).all()


def test_run_lengths_are_the_label_maps(tmp_path):
    images = [image(), image(40, 52), image(70, 50)]
    pairs = data.Pairs([(one, np.zeros(one.shape[:2], "uint8")) for one in images])
    evaluate(Model(), pairs, save_predictions=tmp_path, prediction_format="rle")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ImageId"] for row in rows] == sorted(row["ImageId"] for row in rows)
    for i, expected in enumerate(segment(FakeNet(), images)):
        label_map = np.full(expected.label_map.shape, 99)
        for row in rows:
            if row["ImageId"] == f"{i:06d}":
                label_map[from_kaggle_rle(row["EncodedPixels"], *label_map.shape)] = int(row["ClassId"])
        assert (label_map == expected.label_map).all()


def test_one_file_has_only_the_images_that_were_asked_for(tmp_path):
    one = image()
    pairs = data.Pairs([(one, np.zeros(one.shape[:2], "uint8"))] * 3)
    for limit in (3, 2):
        evaluate(Model(), pairs, save_predictions=tmp_path, prediction_format="rle", limit=limit)
        with (tmp_path / "predictions.csv").open(newline="") as file:
            assert len({row["ImageId"] for row in csv.DictReader(file)}) == limit


def test_a_file_that_is_gone_is_written_again(tmp_path):
    one = image()
    pairs = data.Pairs([(one, np.zeros(one.shape[:2], "uint8"))] * 3)
    evaluate(Model(), pairs, save_predictions=tmp_path)
    (tmp_path / "000001.png").unlink()
    model = Model()
    evaluate(model, pairs, save_predictions=tmp_path)
    assert len(model.seen) == 1 and (tmp_path / "000001.png").exists()
