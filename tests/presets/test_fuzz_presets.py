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
OF_WEIGHTS = (
    100  # one input in so many changes the weights, which are checked in a process of their own
)

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
    {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}},
    {"class_name": "__keras_tensor__"},
    {"pixel_logits": {"lora_rank": 1024}},
]
NAMES = [
    *("backbone_weights", "class_name", "config", "inbound_nodes", "labels", "layers", "lora_rank"),
    *("module", "new", "trainable"),
]


def own_backbone():
    """A network of layers and operations."""
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 8, strides=8, padding="same", activation="relu")(pixels)
    features = keras.ops.concatenate([features, 1.0 - features[..., :2]], -1)
    return keras.Model(pixels, [features, keras.ops.relu(features)])


def changed_layers():
    """A model whose layers are frozen, quantized and with LoRA matrices."""
    model = EncNet("resnet18", 2, labels=["a", "b"], head_channels=4, num_codes=2, width=0.0625)
    model.backbone.trainable = False
    model.get_layer("pixel_logits").enable_lora(2)
    model.get_layer("gate").quantize("int8")
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directories of small presets."""
    here = tmp_path_factory.mktemp("presets")
    own = EncNet(own_backbone(), 2, labels=["a", "b"], head_channels=4, num_codes=2)
    changed = changed_layers()
    assert {"lora_rank", "dtype", "trainable"} <= {
        name for changes in changed.get_config()["layers"].values() for name in changes
    }
    for name, model in (("own", own), ("changed", changed)):
        model.save_to_preset(here / name)
    return [here / "own", here / "changed"]


class Copy:
    """A copy of a preset, to be changed and restored."""

    def __init__(self, saved, place):
        self.directory = shutil.copytree(saved, place)
        self.config, self.weights = place / "config.json", place / "model.weights.h5"
        self.text, self.content = self.config.read_bytes(), self.weights.read_bytes()
        self.stored = json.loads(self.text)

    def restore(self, weights):
        self.config.write_bytes(self.text)
        if weights:
            self.weights.write_bytes(self.content)


@pytest.fixture
def copies(saved, tmp_path):
    return [Copy(directory, tmp_path / directory.name) for directory in saved]


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


def test_changed_presets_are_a_model_or_one_error_that_names_the_file(copies, fuzz):
    count, seed = fuzz
    refused = {"config": 0, "weights": 0, "complete": 0}
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        mine = rng.choice(copies)
        directory, config, weights = mine.directory, mine.config, mine.weights
        complete = index % COMPLETE == 0
        try:
            if index % OF_WEIGHTS == 1:
                with open(weights, "r+b") as file:
                    for _ in range(rng.choice((1, 1, 4, 16))):
                        file.seek(int(len(mine.content) * rng.random() ** 3))
                        file.write(bytes([rng.choice((0, 255, rng.randrange(256)))]))
                    if rng.random() < 0.05:
                        file.truncate(rng.randrange(len(mine.content)))
                message = refusal(lambda path=weights: check_weights(path))
                refused["weights"] += message is not None
            else:
                config.write_bytes(changed_config(mine.stored, rng))
                message = refusal(lambda path=config: read_config(path, EncNet))
                refused["config"] += message is not None
            if message is None and complete:
                # Keras warns of much, such as of activations that it does not know.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    message = refusal(lambda path=directory: EncNet.from_preset(path))
                refused["complete"] += message is not None
            assert message is None or str(directory) in message
            assert message is None or len(message) < 2000
        except BaseException as error:
            error.add_note(f"seed {seed}, index {index}")
            raise
        finally:
            mine.restore(weights=index % OF_WEIGHTS == 1)
    print(f"{count} inputs, refused: {refused}")
    for mine in copies:
        assert EncNet.from_preset(mine.directory).num_classes == 2


def test_changed_weights_load_or_are_refused(copies, fuzz):
    count, seed = fuzz
    for index in range(count // COMPLETE):
        rng = random.Random(f"weights/{seed}/{index}")
        mine = rng.choice(copies)
        changed = bytearray(mine.content)
        changed[int(len(changed) * rng.random() ** 3)] = rng.randrange(256)
        mine.weights.write_bytes(changed)
        try:
            message = refusal(lambda path=mine.directory: EncNet.from_preset(path))
            assert message is None or str(mine.directory) in message
        except BaseException as error:
            error.add_note(f"seed {seed}, index {index}")
            raise
        finally:
            mine.restore(weights=True)
