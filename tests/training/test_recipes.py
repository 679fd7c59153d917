"""The recipes by name. Expected values are those of the authors' configurations and scripts."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import Pairs, batches
from keras_encnet.data.datasets import DATASETS
from keras_encnet.training.optimizers import HEADS
from keras_encnet.training.recipes import Recipe, recipe
from keras_encnet.zoo.table import SHORT_NAMES, list_presets
from training.tiny import tiny

RNG = np.random.default_rng(0)
PAIRS = Pairs(
    [
        (RNG.integers(0, 256, (60, 80, 3), "uint8"), RNG.integers(0, 3, (60, 80), "uint8"))
        for _ in range(4)
    ],
    labels=["sky", "road", "car"],
)
# mmsegmentation 1.2.2, `configs/_base_/schedules` and `datasets`.
MMSEGMENTATION = {
    "learning_rate": 0.01,
    "end": 1e-4,
    "power": 0.9,
    "inclusive": True,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "head_factor": 1,
    "average": "all",
    "aux_weight": 0.4,
    "se_weight": 0.2,
    "dropout": 0.1,
    "backbone_weights": "imagenet",
    "scale": (0.5, 2.0),
    "antialias": False,
    "max_class_share": 0.75,
    "flip": 0.5,
    "blur": 0,
    "epochs": None,
}
# PyTorch-Encoding 0.5.0, `experiments/segmentation/option.py`, `train.py` and `datasets/base.py`.
PYTORCH_ENCODING = {
    "batch_size": 16,
    "end": 0,
    "power": 0.9,
    "inclusive": False,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "head_factor": 10,
    "average": "counted",
    "aux_weight": 0.2,
    "se_weight": 0.2,
    "dropout": 0.1,
    "backbone_weights": "imagenet",
    "scale": (0.5, 2.0),
    "antialias": True,
    "max_class_share": 1,
    "flip": 0.5,
    "photometric": False,
    "blur": 0.5,
    "padding": (0, 0, 0),
    "steps": None,
}
ADE20K = {"dataset": "ade20k", "size": (512, 512), "resize": (2048, 512), "batch_size": 16}
CITYSCAPES = {"dataset": "cityscapes", "batch_size": 8}
WIDE = {**CITYSCAPES, "size": (512, 1024), "resize": (2048, 1024), "align_corners": False}
SQUARE = {**CITYSCAPES, "size": (769, 769), "resize": (2049, 1025), "align_corners": True}
SMALL = {"size": (480, 480), "resize": {"short": 520}}
CONTEXT = {"dataset": "pascal_context", "learning_rate": 0.001, "epochs": 80, "laterals": True}
BY_NAME = {
    "ade20k_r50s": {**SMALL, "dataset": "ade20k", "learning_rate": 0.01, "epochs": 120},
    "ade20k_r101s": {"size": (576, 576), "resize": {"short": 640}, "epochs": 120},
    "pascal_context_r50s": {**SMALL, **CONTEXT},
    "pascal_context_r101s": {**SMALL, **CONTEXT},
}


def expected_values(name):
    if name in BY_NAME:
        return {**PYTORCH_ENCODING, **BY_NAME[name]}
    kind = ADE20K if "ade20k" in name else SQUARE if "769" in name else WIDE
    steps = int(name.split("_")[-1].removesuffix("k")) * 1000
    return {**MMSEGMENTATION, **kind, "steps": steps}


@pytest.mark.parametrize("name", [preset.name for preset in list_presets()])
def test_every_published_model_has_its_recipe(name):
    found = recipe(name)
    assert found.name == name and found.dataset in DATASETS
    for field, value in expected_values(name).items():
        assert getattr(found, field) == value, field
    assert found.backbone == ("resnet101" if "r101" in name else "resnet50") + "s" * (name in BY_NAME)
    json.dumps(found.settings())


def test_short_names_and_those_of_the_originals_work():
    for short, name in SHORT_NAMES.items():
        assert recipe(short) == recipe(name)
    assert recipe("encnet_resnet50s_ade") == recipe("ade20k_r50s")
    with pytest.raises(ValueError, match="published model. Received: 'ade20k_r5'. Did you mean"):
        recipe("ade20k_r5")


def test_every_value_can_be_overridden():
    names = {field.name for field in dataclasses.fields(Recipe)} - {"name", "batch_size", "steps"}
    for name in names - {"accumulation", "epochs"}:
        assert getattr(recipe("ade20k_r50", **{name: "other"}), name) == "other"
    assert recipe("ade20k_r50", batch_size=8, accumulation=4).accumulation == 4
    # One length takes the place of the other.
    assert recipe("ade20k_r50", epochs=3).steps is None
    assert recipe("ade20k_r50s", steps=7).epochs is None
    # A smaller batch does not change the learning rate behind one's back.
    assert recipe("ade20k_r50s", batch_size=4).learning_rate == 0.01


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"lr": 1}, "can be given are dataset, backbone.*epochs. Received: lr"),
        ({"accumulation": 3}, "`accumulation` must divide `batch_size`.*=3, batch_size=16"),
        ({"steps": 1, "epochs": 1}, "One of `steps` and `epochs`.*steps=1, epochs=1"),
        ({"epochs": 0}, "`epochs` must be a positive integer. Received: 0"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ],
)
def test_invalid_overrides_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        recipe("ade20k_r50", **overrides)


def test_the_batches_are_those_of_the_recipe():
    small = {"size": (40, 40), "resize": {"short": 40}, "batch_size": 4, "seed": 3}
    data = recipe("ade20k_r50s", accumulation=2, **small).batches(PAIRS)
    expected = batches(
        PAIRS,
        size=(40, 40),
        batch_size=2,
        augment=True,
        seed=3,
        resize={"short": 40},
        antialias=True,
        max_class_share=1,
        photometric=False,
        blur=0.5,
        padding=(0, 0, 0),
    )
    for a, b in zip(data[0], expected[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(recipe("ade20k_r50", batch_size=2).batches(PAIRS, repeat=3)) == 6


def test_the_optimizer_follows_the_published_rates():
    data = recipe("ade20k_r50s", batch_size=2).batches(PAIRS)  # two steps an epoch
    optimizer = recipe("ade20k_r50s", batch_size=2, epochs=5).optimizer(data)
    rates = [float(optimizer._learning_rate(step)) for step in range(10)]
    np.testing.assert_allclose(rates, [0.01 * (1 - t / 10) ** 0.9 for t in range(10)], rtol=1e-5)
    assert optimizer.learning_rate_factors == {HEADS: 10}
    # mmengine's PolyLR reaches its end in the last step.
    optimizer = recipe("ade20k_r50", steps=10).optimizer(data, use_ema=True)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 9)]
    np.testing.assert_allclose(rates, [0.01, 1e-4], rtol=1e-5)
    assert optimizer.use_ema and not optimizer.learning_rate_factors


def test_models_have_the_classes_of_their_pairs():
    chosen = recipe("ade20k_r50", backbone=tiny().backbone, backbone_weights=None)
    model = chosen.model(PAIRS, head_channels=8)
    assert model.labels == ("sky", "road", "car") and model.evaluation == {"resize": [2048, 512]}
    with pytest.raises(ValueError, match="`num_classes` must be given.*num_classes=3"):
        chosen.model(Pairs([PAIRS[0]]))


def test_three_lines_train_and_resume(tmp_path):
    root = tmp_path / "ade"
    for kind, array in (("images", 3 * [200]), ("annotations", 1)):
        folder = root / kind / "training"
        folder.mkdir(parents=True)
        for i in range(4):
            pixels = np.full((48, 64, 3) if kind == "images" else (48, 64), array, "uint8")
            pixels[:, 20:] = 2 + i
            Image.fromarray(pixels).save(
                folder / f"ADE_train_{i}.{'jpg' if kind == 'images' else 'png'}"
            )
    small = {"size": (32, 32), "resize": (64, 48), "batch_size": 4, "accumulation": 2, "steps": 3}
    chosen = recipe("ade20k_r50_512x512_80k", backbone=tiny().backbone, backbone_weights=None, **small)

    data = chosen.batches(chosen.pairs(root))
    model = chosen.train(data, directory=tmp_path / "run", verbose=0)

    assert model.num_classes == 150 and model.labels[0] == "wall"
    assert int(np.array(model.optimizer.iterations)) == 3
    assert data.step == 6
    again = chosen.train(chosen.batches(chosen.pairs(root)), directory=tmp_path / "run", verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = dataclasses.replace(chosen, learning_rate=0.02)
    with pytest.raises(ValueError, match="learning_rate: 0.01 then, 0.02 now"):
        other.train(data, directory=tmp_path / "run", verbose=0)
    keras.utils.clear_session()
