"""examples/finetune.py: three ways on the same images, a table, and a model with the new classes."""

import importlib
import pathlib

import keras
import numpy as np
import pytest
from PIL import Image

from keras_encnet import EncNet, data
from keras_encnet.demo.drawing import ROAD, scenes

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture
def finetune(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("finetune")


def tiny(num_classes):
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(8, 8, strides=8, padding="same", name="eighth")(pixels)
    backbone = keras.Model(pixels, [features, features])
    return EncNet(backbone, num_classes, head_channels=8, num_codes=4)


@pytest.fixture
def folders(tmp_path):
    """Scenes as files, whose masks say only where the road is."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i, (image, mask) in enumerate(scenes(10, size=(48, 64))):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray((mask == ROAD).astype("uint8")).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def test_it_trains_in_three_ways_and_saves_a_model_with_the_new_classes(finetune, folders, capsys):
    tiny(num_classes=9).save_to_preset(folders / "weights")
    options = "--side 64 --epochs 2 --frozen 1 --batch-size 4 --seeds 1 --rates 1e-3 --labels rest road"
    places = (folders / "weights", "--images", folders / "images", "--masks", folders / "masks")
    rows = finetune.main([*map(str, places), "--out", str(folders / "made"), *options.split()])
    assert [(way, rate, len(found)) for way, rate, found in rows] == [
        (way, 1e-3, 1) for way in finetune.WAYS
    ]
    assert all(0 <= miou <= 1 for _, _, found in rows for miou in found)
    printed = capsys.readouterr().out
    assert "8 images for training, 2 for evaluation" in printed
    assert "| mean IoU after 4 steps | learning rate | mean | each seed |" in printed
    assert EncNet.from_preset(folders / "made").labels == ("rest", "road")


def test_only_the_trained_ways_start_from_the_weights(finetune, folders, monkeypatch):
    weights = tiny(num_classes=9)
    weights.save_to_preset(folders / "weights")
    trained = weights.backbone.get_layer("eighth").get_weights()[0]
    kept = []
    monkeypatch.setattr(
        finetune,
        "train",
        lambda model, *_: kept.append(
            np.array_equal(model.backbone.get_layer("eighth").get_weights()[0], trained)
        ),
    )
    options = "--side 64 --batch-size 4 --seeds 1 --labels rest road"
    places = (folders / "weights", "--images", folders / "images", "--masks", folders / "masks")
    finetune.main([*map(str, places), "--out", str(folders / "made"), *options.split()])
    assert kept == [False, True, True]


@pytest.mark.parametrize("frozen", [0, 3])
def test_the_backbone_is_frozen_at_first(finetune, monkeypatch, frozen):
    model, seen = tiny(num_classes=3), []

    def fit(self, batches, initial_epoch=0, epochs=1, **options):
        seen.append((self.backbone.trainable, initial_epoch, epochs))

    monkeypatch.setattr(EncNet, "fit", fit)
    pairs = [(np.zeros((32, 32, 3), "uint8"), np.zeros((32, 32), "uint8"))] * 4
    batches = data.batches(pairs, size=(32, 32), batch_size=2, augment=True, seed=0)
    finetune.train(model, batches, 40, frozen, 0.01)
    assert seen == ([(False, 0, 3), (True, 3, 40)] if frozen else [(True, 0, 40)])
    assert model.backbone.trainable


def test_arguments_that_do_not_fit_are_refused(finetune, capsys):
    for arguments, words in (
        ("weights --images a", "either --camvid, or --images, --masks and --labels"),
        ("weights --camvid a --epochs 3 --frozen 3", "--frozen must be from 0 to --epochs - 1"),
    ):
        with pytest.raises(SystemExit):
            finetune.main(arguments.split())
        assert words in capsys.readouterr().err
