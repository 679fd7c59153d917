"""Changed presets give a model or one `ValueError` that names the file.

Most inputs are only checked, as `from_preset` does before it makes a network; a few are loaded.
`pytest tests/presets/test_fuzz_presets.py --fuzz 100000 --fuzz-seed 1` runs for minutes.
"""

import copy
import json
import random
import shutil
import warnings

import keras
import pytest

from keras_encnet import EncNet
from keras_encnet.presets.checks import check_weights, read_config

COMPLETE = 250  # one input in so many is loaded completely
OF_WEIGHTS = 8  # one input in so many changes the weights, the others the config

VALUES = [
    *(None, True, False, 0, 1, -1, 3, 255, 2**31, 10**30, 0.5, -0.0, 1e308, float("nan")),
    *(
        "",
        "resnet18",
        "resnet50",
        "imagenet",
        "/etc/passwd",
        "float16",
        "\x1b[2J",
        "\ud800",
        "x" * 2000,
    ),
    *([], [0], [[0, 0, 0]], [None] * 3, {}, {"a": 1}, {"class_name": "Lambda", "config": {}}),
    {"module": "os", "class_name": "system", "config": {}, "registered_name": None},
    {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"},
    {"module": "keras.layers", "class_name": "Dense", "config": {"units": 10**9}},
]
NAMES = ["backbone_weights", "class_name", "config", "labels", "layers", "module", "new", "trainable"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small preset with a backbone of its own."""
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 8, strides=8, padding="same", activation="relu")(pixels)
    backbone = keras.Model(pixels, [features, features])
    directory = tmp_path_factory.mktemp("presets") / "mine"
    EncNet(backbone, 2, labels=["a", "b"], head_channels=4, num_codes=2).save_to_preset(directory)
    return directory


def places(value):
    """Every container in a config with every key in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, (dict, list)) and item:
            yield from places(item)


def changed_config(stored, rng):
    """The text of a `config.json` with one to three changes."""
    stored = copy.deepcopy(stored)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        container, key = rng.choice(list(places(stored)))
        kind = rng.random()
        if kind < 0.6:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.7:
            del container[key]
        elif kind < 0.8 and isinstance(container, dict):
            container[rng.choice(NAMES)] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.9:
            other, name = rng.choice(list(places(stored)))
            container[key] = copy.deepcopy(other[name])
        else:
            for _ in range(rng.choice((1, 30, 100))):
                container[key] = rng.choice(([container[key]], {"config": container[key]}))
        if not stored:
            break
    text = bytearray(json.dumps(stored).encode())
    if rng.random() < 0.1:
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    if rng.random() < 0.03:
        del text[rng.randrange(len(text)) :]
    return bytes(text)


def refusal(load):
    """The message with which a preset is refused, or `None`."""
    try:
        load()
    except ValueError as error:
        return str(error)
    return None


def test_changed_presets_are_a_model_or_one_error_that_names_the_file(saved, tmp_path, fuzz):
    count, seed = fuzz
    mine = shutil.copytree(saved, tmp_path / "mine")
    config, weights = mine / "config.json", mine / "model.weights.h5"
    stored, original = json.loads(config.read_text()), config.read_bytes()
    content = weights.read_bytes()
    refused = {"config": 0, "weights": 0, "complete": 0}
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        complete = index % COMPLETE == 0
        try:
            if index % OF_WEIGHTS == 1:
                with open(weights, "r+b") as file:
                    for _ in range(rng.choice((1, 1, 4, 16))):
                        file.seek(int(len(content) * rng.random() ** 3))
                        file.write(bytes([rng.choice((0, 255, rng.randrange(256)))]))
                    if rng.random() < 0.05:
                        file.truncate(rng.randrange(len(content)))
                message = refusal(lambda: check_weights(weights))
                refused["weights"] += message is not None
            else:
                config.write_bytes(changed_config(stored, rng))
                message = refusal(lambda: read_config(config, EncNet))
                refused["config"] += message is not None
            if message is None and complete:
                # Keras warns of much, such as of activations that it does not know.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    message = refusal(lambda: EncNet.from_preset(mine))
                refused["complete"] += message is not None
            assert message is None or str(mine) in message
            assert message is None or len(message) < 2000
        except BaseException as error:
            error.add_note(f"seed {seed}, index {index}")
            raise
        finally:
            config.write_bytes(original)
            if index % OF_WEIGHTS == 1:
                weights.write_bytes(content)
    print(f"{count} inputs, refused: {refused}")
    assert EncNet.from_preset(mine).num_classes == 2


def test_changed_weights_load_or_are_refused(saved, tmp_path, fuzz):
    count, seed = fuzz
    mine = shutil.copytree(saved, tmp_path / "mine")
    weights = mine / "model.weights.h5"
    content = weights.read_bytes()
    for index in range(count // COMPLETE):
        rng = random.Random(f"weights/{seed}/{index}")
        changed = bytearray(content)
        changed[int(len(content) * rng.random() ** 3)] = rng.randrange(256)
        weights.write_bytes(changed)
        try:
            message = refusal(lambda: EncNet.from_preset(mine))
            assert message is None or str(mine) in message
        except BaseException as error:
            error.add_note(f"seed {seed}, index {index}")
            raise
