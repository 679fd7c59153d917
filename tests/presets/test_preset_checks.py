"""Presets of others: nothing but an `EncNet` is made of them, and errors name the file."""

import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras.src.saving import serialization_lib

from golden.weights import image
from keras_encnet import EncNet
from keras_encnet.presets import checks
from keras_encnet.presets.checks import check_config, check_size, check_weights, read_config

ONE = image(0, 40, 56)[None]


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    """A layer with a layer in it and weights of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Conv2D(8, 8, strides=8, padding="same")

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(name="scale", shape=(8,), initializer="random_normal")

    def call(self, images):
        return self.inner(images) * self.scale


def own_backbone():
    pixels = keras.Input((None, None, 3))
    features = Scaled(name="scaled")(pixels)
    more = keras.layers.Conv2D(8, 1, name="not_a_classifier_logits")(features)
    return keras.Model(pixels, [features, more], name="own")


def tiny(backbone="resnet18", **kwargs):
    size = {"width": 0.0625} if isinstance(backbone, str) else {}
    return EncNet(backbone, 3, head_channels=8, num_codes=4, **size, **kwargs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directory of a preset, and of one with a backbone of one's own."""
    here = tmp_path_factory.mktemp("presets")
    tiny(labels=["sky", "road", "car"]).save_to_preset(here / "named")
    tiny(own_backbone()).save_to_preset(here / "own")
    return here


@pytest.fixture
def change(saved, tmp_path):
    """A function that copies a preset and changes its config; it returns the directory."""

    def change(which="named", **entries):
        shutil.copytree(saved / which, tmp_path / "mine", dirs_exist_ok=True)
        path = tmp_path / "mine" / "config.json"
        stored = json.loads(path.read_text())
        stored["config"].update(entries)
        path.write_text(json.dumps(stored))
        return tmp_path / "mine"

    return change


def config_of(directory):
    return json.loads((directory / "config.json").read_text())["config"]


# === config.json ===

WRONG = [
    ("num_classes", "3", "an integer of 1 to 65535"),
    ("num_classes", True, "an integer"),
    ("num_classes", 10**9, "an integer of 1 to 65535"),
    ("num_classes", None, "an integer"),
    ("backbone", 18, "a name or the config of a model"),
    ("labels", "sky", "a list of text"),
    ("labels", [1, 2, 3], "a list of text"),
    ("labels", ["sky", "road", "\x1b[2Jcar"], "without control characters"),
    ("labels", ["sky", "road", "\ud800"], "without control characters"),
    ("labels", ["sky", "road", "x" * 1001], "at most 1000 characters"),
    ("labels", ["sky"], "3 entries"),
    ("palette", [[0, 0, 0]] * 4, "3 entries"),
    ("palette", [[0, 0, 256]] * 3, "three numbers of 0 to 255"),
    ("palette", [[0, 0]] * 3, "three numbers of 0 to 255"),
    ("palette", {"a": 1}, "three numbers of 0 to 255"),
    ("ignore_index", -1, "an integer of 0"),
    ("num_codes", 0, "an integer of 1"),
    ("num_codes", [4], "an integer of 1"),
    ("head_channels", 8.5, "an integer of 1"),
    ("head_channels", 10**400, "an integer of 1"),
    ("width", 0, "a number above 0"),
    ("width", float("nan"), "not a number"),
    ("width", float("inf"), "not a number"),
    ("output_stride", 7, "8, 16 or 32"),
    ("laterals", "yes", "true or false"),
    ("se_head", [], "true or false"),
    ("dropout", 2, "a number of 0 to 1"),
    ("mean", [1, 2], "three numbers"),
    ("std", [0, 1, 1], "three numbers above 0"),
    ("std", 58, "three numbers above 0"),
    ("evaluation", [1], "null or a dict"),
    ("evaluation", {"resize": -1}, "`resize` must be"),
    ("evaluation", {"zoom": 1}, "zoom"),
    ("dtype", 32, "null, a name"),
    ("name", ["encnet"], "null or text"),
    ("backbone_weights", "/etc/passwd", "null"),
    ("backbone_weights", "http://127.0.0.1/weights.pth", "null"),
    ("trainable", "no", "true or false"),
    ("layers", ["a"], "a dict of dicts"),
    ("layers", {"pixel_logits": {"lora_rank": 10**9}}, "LoRA ranks of 1 to 1024"),
    ("colour", "red", "must be arguments of `EncNet`.*colour.*update the package"),
]


@pytest.mark.parametrize(
    "name, value, message", WRONG, ids=[f"{n}-{str(v)[:12]!r}" for n, v, _ in WRONG]
)
def test_wrong_entries_are_one_error_that_names_the_file(name, value, message, change):
    with pytest.raises(ValueError, match=rf"(?s)config\.json.*{message}") as caught:
        EncNet.from_preset(change(**{name: value}))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "1",
        '"text"',
        "\ufeff{}",
        "{}",
        '{"registered_name": "keras_encnet>EncNet"}',
        '{"registered_name": "keras_encnet>EncNet", "config": null}',
        '{"registered_name": "keras_encnet>EncNet", "config": []}',
        '{"registered_name": "keras_encnet>EncNet", "config": {}}',
        '{"registered_name": "keras_encnet>EncNet", "config": {"backbone": "resnet18"}}',
        '{"registered_name": ["keras_encnet>EncNet"], "config": {}}',
        '{"registered_name": null, "config": {}}',
        "[" * 100_000,
        '{"registered_name": "keras_encnet>EncNet", "config": ' + '{"a":' * 900 + "1" + "}" * 901,
        "9" * 10_000,
    ],
    ids=lambda content: f"{content[:25]}-{len(content)}",
)
def test_other_json_is_one_error_that_names_the_file(content, change):
    directory = change()
    (directory / "config.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=r"config\.json"):
        EncNet.from_preset(directory)


def test_bytes_that_are_no_text_and_files_that_are_too_long(change):
    directory = change()
    (directory / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        EncNet.from_preset(directory)
    (directory / "config.json").write_text(" " * (8 * 2**20 + 1))
    with pytest.raises(ValueError, match=r"config\.json must have at most 8388608 bytes"):
        EncNet.from_preset(directory)


def test_entries_of_a_newer_version_in_a_subclass(change):
    class Mine(EncNet):
        def __init__(self, *args, colour="blue", **kwargs):
            super().__init__(*args, **kwargs)
            self.colour = colour

    assert Mine.from_preset(change(colour="red")).colour == "red"


def test_what_a_preset_may_not_hold_is_not_saved(tmp_path):
    model = tiny(labels=["sky", "road", "\x07"])
    with pytest.raises(ValueError, match="`labels` must be.*without control characters"):
        model.save_to_preset(tmp_path / "mine")

    class Mine(keras.layers.Layer):
        def call(self, features):
            return features

    backbone = own_backbone()
    features = [Mine()(feature) for feature in backbone.outputs]
    model = tiny(keras.Model(backbone.inputs, features))
    with pytest.raises(ValueError, match="'Mine'.*register it with"):
        model.save_to_preset(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_the_caller_s_own_arguments_are_not_called_damage(saved):
    with pytest.raises(ValueError, match=r"^`labels` must be 3 names"):
        EncNet.from_preset(saved / "named", labels=["sky"])
    with pytest.raises(ValueError, match=r"^`labels` must be a list of names\. Received: 'sky'"):
        EncNet.from_preset(saved / "named", labels="sky")
    with pytest.raises(ValueError, match=r"^`num_classes` must be a positive integer"):
        EncNet.from_preset(saved / "named", num_classes=0)


# === Objects in a config ===


def with_layer(own, **changes):
    """The config of a model with one's own backbone, with another layer in it."""
    own = copy.deepcopy(own)
    layer = own["backbone"]["config"]["layers"][2]
    assert layer["class_name"] == "Conv2D"
    for key, value in changes.items():
        layer[key] = value if key != "config" else {**layer["config"], **value}
    return own


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


# Names by which Keras would return a function.
FUNCTIONS = [
    {"module": "keras.models", "class_name": "load_model", "registered_name": None},
    {"module": "keras", "class_name": "utils.get_file", "registered_name": None},
    {"module": "keras", "class_name": "config.enable_unsafe_deserialization", "registered_name": None},
    {"module": "keras.layers", "class_name": "Layer.from_config", "registered_name": None},
]

HOSTILE = [
    *FUNCTIONS,
    {"module": "os", "class_name": "system", "registered_name": None},
    {"module": "antigravity", "class_name": "fly", "registered_name": "fly"},
    {"module": "keras.utils", "class_name": "get_file", "registered_name": None},
    {"module": "keras_hub.models", "class_name": "Backbone", "registered_name": None},
    {"module": ["keras"], "class_name": "Conv2D", "registered_name": None},
    {"module": None, "class_name": "__typespec__", "registered_name": None},
    {"module": None, "class_name": "Unknown", "registered_name": "tests>Unknown"},
    {"config": {"activation": function("keras.utils", "get_file")}},
    {"config": {"activation": function("keras.models", "load_model")}},
    {"config": {"activation": function("keras.saving", "load_model")}},
    {"config": {"activation": function("os", "remove")}},
    {"config": {"activation": {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}}},
    {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {}}}},
    {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
    {"class_name": "TFSMLayer", "config": {"filepath": "/etc"}},
    {"config": {"backbone_weights": "/etc/passwd"}},
    {"config": {"filters": "many"}},
    {
        "config": {
            "kernel_initializer": {"module": "keras.initializers", "class_name": "No", "config": {}}
        }
    },
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda changes: str(changes)[:60])
def test_objects_that_are_no_part_of_a_network_are_refused(changes, saved, change):
    config = with_layer(config_of(saved / "own"), **changes)
    with pytest.raises(ValueError, match=r"config\.json"):
        EncNet.from_preset(change("own", backbone=config["backbone"]))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("changes", FUNCTIONS, ids=lambda changes: changes["class_name"])
def test_functions_do_not_pass_for_classes(changes, saved, change):
    config = with_layer(config_of(saved / "own"), **changes)
    message = f"'{changes['class_name']}' of '{changes['module']}' is not a part of Keras's networks"
    with pytest.raises(ValueError, match=message):
        EncNet.from_preset(change("own", backbone=config["backbone"]))


def test_operations_that_would_run_at_once_are_refused(saved, change):
    tensor = {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}}
    hidden = {"class_name": "__keras_tensor__"}  # without a config, Keras reads a plain dict
    for argument in (tensor, {"a": [tensor]}, hidden, [], tensor | {"x": {**hidden, "config": {}}}):
        for nodes in ([{"args": [argument], "kwargs": {}}], [{}], [[["b", 0, 0]]], [None]):
            config = config_of(saved / "own")
            config["backbone"]["config"]["layers"].append(
                {
                    "module": "keras.src.ops.numpy",
                    "class_name": "BroadcastTo",
                    "config": {"shape": [10]},
                    "name": "b",
                    "inbound_nodes": nodes,
                }
            )
            message = r"config\.json.*each operation must have an input of the network\. Received: "
            with pytest.raises(ValueError, match=message):
                EncNet.from_preset(change("own", backbone=config["backbone"]))


def test_operations_on_the_network_s_tensors_are_accepted(tmp_path):
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 8, strides=8, padding="same")(pixels)
    features = keras.ops.concatenate([features, 1.0 - features[..., :2]], -1)
    model = tiny(keras.Model(pixels, [features, keras.ops.relu(features)]))
    model.save_to_preset(tmp_path / "mine")
    again = EncNet.from_preset(tmp_path / "mine")
    np.testing.assert_allclose(again.predict(ONE), model.predict(ONE), rtol=1e-5, atol=1e-6)


def test_functions_of_a_backbone_need_the_caller_s_consent(tmp_path):
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 8, strides=8, padding="same")(pixels)
    double = keras.layers.Lambda(lambda x: 2 * x)(features)
    tiny(keras.Model(pixels, [features, double])).save_to_preset(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"config\.json.*Lambda"):
        EncNet.from_preset(tmp_path / "mine")
    before = serialization_lib.in_safe_mode()
    with serialization_lib.SafeModeScope(before):  # which restores it
        keras.config.enable_unsafe_deserialization()
        assert EncNet.from_preset(tmp_path / "mine").backbone.layers[-1].name == "lambda"
    assert serialization_lib.in_safe_mode() == before


def test_a_compiled_backbone_of_one_s_own(tmp_path):
    backbone = own_backbone()
    backbone.compile("adam", "mse")
    compiled = keras.saving.serialize_keras_object(backbone)
    assert "Adam" in str(compiled["compile_config"])
    model = tiny(backbone)
    model.save_to_preset(tmp_path / "mine")
    assert not EncNet.from_preset(tmp_path / "mine").backbone.compiled
    # As earlier versions saved it.
    path = tmp_path / "mine" / "config.json"
    stored = json.loads(path.read_text())
    stored["config"]["backbone"]["compile_config"] = compiled["compile_config"]
    path.write_text(json.dumps(stored))
    again = EncNet.from_preset(tmp_path / "mine")
    assert not again.backbone.compiled
    np.testing.assert_array_equal(again.predict(ONE), model.predict(ONE))


def test_a_preset_of_earlier_versions_with_a_width_that_had_no_effect(change):
    model = EncNet.from_preset(change("own", width=2.0, output_stride=16))
    assert model.backbone.get_layer("scaled") and model.width == 1 and model.output_stride == 8


def test_one_s_own_objects_need_to_be_registered(saved, change):
    config = with_layer(config_of(saved / "own"))
    scaled = config["backbone"]["config"]["layers"][1]
    assert scaled["registered_name"] == "tests>Scaled"
    scaled.update(registered_name="Scaled", module="my.layers")
    directory = change("own", backbone=config["backbone"])
    with pytest.raises(ValueError, match=r"config\.json.*'my\.layers'.*register_keras_serializable"):
        EncNet.from_preset(directory)
    with keras.saving.custom_object_scope({"Scaled": Scaled}):
        assert EncNet.from_preset(directory).backbone.get_layer("scaled")


# === The size of the network ===


@pytest.fixture
def peak():
    """A function that gives the most memory in kB that this process has had, since `reset=True`."""
    status, counter = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
    if not os.access(counter, os.W_OK):
        pytest.skip("needs Linux's counter of memory")

    def peak(reset=False):
        if reset:
            counter.write_text("5")
        (line,) = (one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1])

    return peak


@pytest.mark.parametrize(
    "entries",
    [{"head_channels": 1_000_000}, {"num_codes": 10**9}, {"width": 1000}, {"num_classes": 65535}],
    ids=str,
)
def test_no_memory_is_taken_for_what_the_weights_do_not_fill(entries, change, peak):
    EncNet.from_preset(change())
    directory = change(**entries, labels=None, ignore_index=65535)
    before = peak(reset=True)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"mine: the weights file must hold the \d+ numbers") as caught:
        EncNet.from_preset(directory)
    assert "config.json" in str(caught.value) and time.monotonic() - begin < 20
    assert peak() - before < 200_000
    # Nor later, when Keras makes what it has put off.
    with keras.StatelessScope():
        pass


def test_no_memory_is_taken_for_lora_matrices_larger_than_the_kernel(tmp_path):
    EncNet(own_backbone(), 1000, head_channels=8, num_codes=4, ignore_index=1000).save_to_preset(
        tmp_path / "mine"
    )
    path = tmp_path / "mine" / "config.json"
    original = path.read_text()
    for rank, message in [
        (1024, "does not describe a network that can be built.*the rank is too large for the kernel"),
        (1025, "LoRA ranks of 1 to 1024"),
        (10**9, "LoRA ranks of 1 to 1024"),
        (2.0, "LoRA ranks of 1 to 1024"),
        (True, "LoRA ranks of 1 to 1024"),
    ]:
        stored = json.loads(original)
        stored["config"]["layers"] = {"pixel_logits": {"lora_rank": rank}}
        path.write_text(json.dumps(stored))
        with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
            EncNet.from_preset(tmp_path / "mine")


def test_the_size_of_one_s_own_backbone_is_checked_too(saved, change):
    config = with_layer(config_of(saved / "own"), config={"filters": 10**9})
    with pytest.raises(ValueError, match=r"mine: the weights file must hold the \d+ numbers"):
        EncNet.from_preset(change("own", backbone=config["backbone"]))
    with pytest.raises(ValueError, match=r"mine: the weights file must hold the \d+ numbers"):
        EncNet.from_preset(change("own", backbone=config["backbone"]), load_weights=False)


def test_the_check_changes_nothing(saved):
    config = config_of(saved / "own")
    before = copy.deepcopy(config)
    elements = check_weights(saved / "own" / "model.weights.h5")
    model = tiny(own_backbone())
    assert elements >= model.count_params()
    name = keras.layers.Dense(1).name
    check_size(EncNet, config, elements, saved / "own")
    assert config == before
    number = int(name.rpartition("_")[2]) if "_" in name else 0
    assert keras.layers.Dense(1).name == f"dense_{number + 1}"  # names are counted as before
    with pytest.raises(ValueError, match="must hold"):
        check_size(EncNet, config, model.count_params() - 1, saved / "own")


def test_weights_of_another_model_do_not_fit(saved, change, tmp_path):
    directory = change()
    EncNet("resnet34", 3, head_channels=16, width=0.0625).save_to_preset(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.weights.h5", directory)
    with pytest.raises(ValueError, match=r"model\.weights\.h5 does not fit config\.json"):
        EncNet.from_preset(directory)


# === model.weights.h5 ===


def hostile_weights(path, kind):
    """Changes a weights file so that it refers to another file, or is larger than it is."""
    import h5py

    (path.parent / "secret").write_bytes(bytes(1000))
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["x"] = np.zeros(3)
    with h5py.File(path, "a") as file:
        if kind == "external link":
            file["new"] = h5py.ExternalLink(str(path.parent / "other.h5"), "/x")
        elif kind == "soft link":
            file["new"] = h5py.SoftLink("/layers")
        elif kind == "external storage":
            file.create_dataset(
                "new", (10,), "float32", external=[(str(path.parent / "secret"), 0, 40)]
            )
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3,), "float64")
            layout[:] = h5py.VirtualSource(str(path.parent / "other.h5"), "x", (3,))
            file.create_virtual_dataset("new", layout)
        elif kind == "compressed":
            file.create_dataset("new", (10**6,), "float32", compression="gzip", chunks=(10**6,))
        elif kind == "never written":
            file.create_dataset("new", (10**12,), "float32")
        elif kind == "text":
            file.create_dataset("new", (3,), h5py.string_dtype())
        elif kind == "type":
            file["new"] = np.dtype("float32")


KINDS = [
    ("external link", "link to another place"),
    ("soft link", "link to another place"),
    ("external storage", "stored in another file"),
    ("virtual", "stored in another file"),
    ("compressed", "compressed or has no data"),
    ("never written", "compressed or has no data"),
    ("text", "not an array of numbers"),
    ("type", "not an array of numbers"),
]


@pytest.mark.parametrize("kind, message", KINDS, ids=[kind for kind, _ in KINDS])
def test_weights_are_plain_arrays_in_the_file(kind, message, change):
    directory = change()
    hostile_weights(directory / "model.weights.h5", kind)
    with pytest.raises(ValueError, match=rf"model\.weights\.h5 is damaged.*'new' is .*{message}"):
        EncNet.from_preset(directory)
    with pytest.raises(ValueError, match=rf"model\.weights\.h5 is damaged.*{message}"):
        tiny(backbone_weights=directory)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\0" * 1000])
def test_other_files_in_place_of_the_weights(content, change):
    directory = change()
    (directory / "model.weights.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is damaged"):
        EncNet.from_preset(directory)


def test_weights_for_which_hdf5_takes_all_memory_are_refused(change):
    """A wrong address of the names of a group; found by the fuzzer, where HDF5 took 18 GB."""
    path = change() / "model.weights.h5"
    content = bytearray(path.read_bytes())
    second_heap = content.index(b"HEAP", content.index(b"HEAP") + 1)
    content[second_heap + 25] = 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is damaged"):
        check_weights(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_weights_are_read_by_a_process_with_little_memory():
    limit = "import weights_file; weights_file._limit_memory(); bytearray({})"
    for megabytes, message in ((100, ""), (300, "MemoryError")):
        process = subprocess.run(
            [sys.executable, "-c", limit.format(megabytes * 2**20)],
            cwd=pathlib.Path(checks.__file__).parent,
            capture_output=True,
            text=True,
        )
        assert message in process.stderr and bool(process.returncode) == bool(message)


def test_weights_that_take_too_long_are_refused(change, monkeypatch):
    directory = change()
    monkeypatch.setattr(checks, "SECONDS", 0.001)
    with pytest.raises(ValueError, match=r"weights\.h5 is damaged \(or on a slow disk: reading"):
        EncNet.from_preset(directory)


def test_weights_that_cannot_be_read_are_not_called_damaged(change, monkeypatch):
    directory = change()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("keras_encnet.presets.checks.open", refuse, raising=False)
    with pytest.raises(PermissionError):
        EncNet.from_preset(directory)


# === Nothing is opened, nobody is contacted ===

WATCHED = """
import pathlib, sys
import keras
from keras_encnet import EncNet
here = pathlib.Path(sys.argv[1])
EncNet.from_preset(here / "named")  # Keras imports some of its modules late
seen = []

def watch(event, arguments):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.system", "exec"):
        seen.append((event, str(arguments)[:200]))
    elif event == "open" and isinstance(arguments[0], str) and not arguments[0].startswith(str(here)):
        seen.append((event, arguments[0]))

sys.addaudithook(watch)
for directory in sorted(here.glob("hostile*")):
    try:
        EncNet.from_preset(directory)
        print(f"{directory.name} was loaded")
    except ValueError as error:
        assert "config.json" in str(error) or "model.weights.h5" in str(error), error
packages = ("site-packages", "/lib/python", "keras_encnet/presets", "keras_encnet/zoo")
print([one for one in seen if not any(package in one[1] for package in packages)])
"""


def test_hostile_presets_open_no_other_file_and_contact_nobody(saved, change, tmp_path):
    named, own = config_of(saved / "named"), config_of(saved / "own")
    shutil.copytree(saved / "named", tmp_path / "named")
    configs = [
        named | {"backbone_weights": value}
        for value in ("/etc/passwd", "imagenet", "resnet18_v1c_imagenet", "http://127.0.0.1:1/x.pth")
    ]
    configs += [named | {"backbone": with_layer(own, **changes)["backbone"]} for changes in HOSTILE]
    for i, config in enumerate(configs):
        directory = shutil.copytree(saved / "named", tmp_path / f"hostile{i}")
        stored = json.loads((directory / "config.json").read_text()) | {"config": config}
        (directory / "config.json").write_text(json.dumps(stored))
    for i, (kind, _) in enumerate(KINDS):
        directory = shutil.copytree(saved / "named", tmp_path / f"hostile_weights{i}")
        hostile_weights(directory / "model.weights.h5", kind)
        (tmp_path / f"hostile_weights{i}" / "secret").unlink()
        (tmp_path / f"hostile_weights{i}" / "other.h5").unlink()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stdout + done.stderr


# === New classifiers on a backbone of one's own ===


def test_all_but_the_classifiers_is_kept_of_one_s_own_backbone(saved):
    old = EncNet.from_preset(saved / "own")
    new = EncNet.from_preset(saved / "own", num_classes=5)
    assert new.num_classes == 5
    for a, b in zip(old.backbone.get_weights(), new.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for layer in new._flatten_layers():
        if layer.name in ("pixel_logits", "aux_logits", "presence_logits"):
            assert layer.get_weights()[0].shape[-1] == 5
    np.testing.assert_array_equal(
        old.get_layer("gate").get_weights()[0], new.get_layer("gate").get_weights()[0]
    )


def test_config_check_accepts_what_models_give(saved):
    for directory in [*saved.iterdir(), *pathlib.Path(__file__).parent.glob("saved_by_*/")]:
        if directory.is_dir():
            check_config(read_config(directory / "config.json", EncNet), EncNet)
    check_config(tiny(evaluation={"resize": 64}, dtype="mixed_bfloat16").get_config(), EncNet)
