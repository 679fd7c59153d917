"""What a preset's files may hold: checked before Keras makes anything of them.

A preset may come from anyone. Its `config.json` must describe an `EncNet` and nothing else: no file to
open, no host to contact, no class that this process does not know. Its weights must be plain arrays in
the file itself, and the network that the config describes must not be larger than they are.
"""

import inspect
import json
import math
import pathlib
import subprocess
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_encnet.data.conventions import is_integer
from keras_encnet.inference.geometry import evaluation_rule
from keras_encnet.layers.policies import without_memory
from keras_encnet.processes import last_lines, run_python

ENCNET = "keras_encnet>EncNet"
MAX_BYTES = 8 * 2**20  # of config.json; that of a large backbone of one's own has one MB
MAX_DEPTH = 60  # of lists and dicts in it
MAX_TEXT = 1000  # characters of a name
SECONDS = 60  # for reading what a weights file holds; gigabytes take one
SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Keras's modules that hold the parts of networks.
MODULES = (
    "activations",
    "constraints",
    "dtype_policies",
    "initializers",
    "layers",
    "models",
    "ops",
    "quantizers",
    "random",
    "regularizers",
)
# Functions are not taken from all of them: `keras.models.load_model` is one.
FUNCTIONS = ("activations", "constraints", "initializers", "ops", "regularizers")


def read_config(path: pathlib.Path, cls: type[keras.Model]) -> dict:
    """The constructor's arguments and the state of layers that a preset's `config.json` holds.

    Args:
        path: the file.
        cls: `EncNet` or a subclass, which shall be made of it.

    Raises:
        ValueError: if it is not the config of such a model; it names the file.
        OSError: if it cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} must have at most {MAX_BYTES} bytes. Received: {path.stat().st_size}")
    try:
        stored = json.loads(
            path.read_text("utf-8"),
            parse_constant=_refuse_constant,
            object_hook=_without_compile_config,
        )
        registered, config = stored["registered_name"], stored["config"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(damaged(path, _short(str(error)))) from error
    # A subclass may read what `EncNet` wrote.
    readable = [keras.saving.get_registered_name(base) for base in cls.__mro__]
    if not isinstance(registered, str) or registered not in readable:
        raise ValueError(f"{path} must hold a model of {readable[0]}. Received: {_short(registered)}")
    try:
        check_config(config, cls)
    except ValueError as error:
        message = _short(str(error), 1000)
        raise ValueError(f"{path} is not the config of an EncNet, or is damaged: {message}") from error
    return config


def check_config(config: Any, cls: type[keras.Model]) -> None:
    """Checks what `cls.get_config` gave, or what a file says it gave.

    Raises:
        ValueError: if an entry is unknown, missing, of the wrong type or out of range, or names an
            object that a network does not consist of.
    """
    if not isinstance(config, dict):
        raise ValueError(f"the config must be a dict. Received: {_short(config)}")
    unknown = set(config) - _arguments(cls) - set(STATE)
    if unknown and not _has_own_from_config(cls):
        raise ValueError(
            f"entries must be arguments of `EncNet`. Received: {_short(sorted(unknown))}. If a newer "
            "version of keras-encnet wrote it, update the package."
        )
    for name in ("backbone", "num_classes"):
        if name not in config:
            raise ValueError(f"the entry {name!r} is missing.")
    _check_tree(config, MAX_DEPTH)
    check_entries(config)


def check_entries(config: dict) -> None:
    """Checks the types and the ranges of the entries of `EncNet.get_config`, and their lengths.

    Raises:
        ValueError: if one is not as it must be.
    """
    for name, (what, fits) in {**ARGUMENTS, **STATE}.items():
        if name in config and not fits(config[name]):
            raise ValueError(f"`{name}` must be {what}. Received: {_short(config[name])}")
    count, labels, palette = (config.get(name) for name in ("num_classes", "labels", "palette"))
    for name, value in (("labels", labels), ("palette", palette)):
        if value is not None and len(value) != count:
            raise ValueError(f"`{name}` must have {count} entries, one a class. Received: {len(value)}")
    evaluation_rule(config.get("evaluation"))


def is_encnet(cls: type[keras.Model]) -> bool:
    """Whether a class is `EncNet` or a subclass; importing `models` here would be a circle."""
    return any(keras.saving.get_registered_name(base) == ENCNET for base in cls.__mro__)


def check_weights(path: pathlib.Path) -> int:
    """Checks that a weights file holds plain arrays and nothing else; returns the number of elements.

    Raises:
        ValueError: if it is damaged, refers to other files, or its arrays are larger than the file; it
            names the file.
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError(damaged(path, "it is not an HDF5 file"))
    # HDF5 takes gigabytes for some damaged files, and time without end, so that a process of its own
    # reads the file first. `-P`: its directory has modules with the names of libraries.
    script = pathlib.Path(__file__).with_name("weights_file.py")
    try:
        process = run_python(["-P", str(script)], {"path": str(path)}, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        reason = f"or on a slow disk: reading it takes longer than {SECONDS} s"
        raise ValueError(damaged(path, reason)) from None
    if process.returncode:
        raise ValueError(damaged(path, f"HDF5 cannot read it: {_short(last_lines(process))}"))
    found = json.loads(process.stdout)
    if "error" in found:
        raise ValueError(damaged(path, _short(found["error"])))
    return found["elements"]


def check_size(cls: type[keras.Model], config: dict, elements: int, directory: pathlib.Path) -> None:
    """Checks that the network that a config describes is not larger than the weights in its preset.

    The network is made without memory for its weights.

    Args:
        cls: the class to make.
        config: what `check_config` passed.
        elements: the number of elements in the weights file.
        directory: the preset, for messages.

    Raises:
        ValueError: if it is larger, or cannot be made.
    """
    # What was changed in the layers afterwards needs weights.
    bare = {name: value for name, value in config.items() if name not in STATE}
    known = {name: keras.saving.get_registered_object(name) for name in _registered_names(bare)}

    def count():
        with keras.saving.custom_object_scope(known):
            return sum(math.prod(weight.shape) for weight in cls.from_config(bare).weights)

    try:
        needed = without_memory(count)
    # Keras raises many kinds for configs that do not fit together.
    except Exception as error:
        raise ValueError(unbuildable(directory, error)) from error
    if needed > elements:
        raise ValueError(
            f"{directory}: the weights file must hold the {needed} numbers of the network that "
            f"config.json describes. Received: {elements}. One of the two files is damaged, or belongs "
            "to another preset."
        )


def damaged(path: pathlib.Path, error: Any) -> str:
    """The message about a damaged file of a preset."""
    return (
        f"{path} is damaged ({error}). Save the preset again with `model.save_to_preset(directory)` or "
        "copy it again from its origin. In a cache, delete its directory."
    )


def unbuildable(directory: pathlib.Path, error: Any) -> str:
    """The message about a preset whose config passes the checks, but gives no model."""
    return (
        f"{directory / 'config.json'} does not describe a network that can be built, or is damaged: "
        f"{_short(str(error))}"
    )


# === Values ===


def _integer(least, greatest):
    return (
        f"an integer of {least} to {greatest}",
        lambda value: is_integer(value) and least <= value <= greatest,
    )


def _number(least, greatest):
    return (
        f"a number of {least} to {greatest}",
        lambda value: _is_number(value) and least <= value <= greatest,
    )


def _three(least):
    return (
        f"three numbers above {least:g}",
        lambda value: (
            isinstance(value, (list, tuple))
            and len(value) == 3
            and all(_is_number(x) and least < x < 1e6 for x in value)
        ),
    )


def _is_number(value):
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value):
    """Whether a value is text that can be shown: no escape sequences for terminals, all in Unicode."""
    return (
        isinstance(value, str)
        and len(value) <= MAX_TEXT
        and not any(c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cs") for c in value)
    )


def _is_labels(value):
    return value is None or (isinstance(value, (list, tuple)) and all(map(_is_text, value)))


def _is_palette(value):
    return value is None or (
        isinstance(value, (list, tuple))
        and all(
            isinstance(colour, (list, tuple))
            and len(colour) == 3
            and all(_is_number(x) and 0 <= x <= 255 for x in colour)
            for colour in value
        )
    )


def _is_layers(value):
    return isinstance(value, dict) and all(
        isinstance(one, dict) and _is_rank(one.get("lora_rank", 1)) for one in value.values()
    )


def _is_rank(value):
    return value is None or (is_integer(value) and 1 <= value <= 1024)


SWITCH = ("true or false", lambda value: value in (True, False))
TEXT = (f"text of at most {MAX_TEXT} characters, without control characters", _is_text)

# What each entry must be, and whether a value is.
ARGUMENTS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "backbone": ("a name or the config of a model", lambda v: _is_text(v) or isinstance(v, dict)),
    "num_classes": _integer(1, 65535),
    "labels": (f"null or a list of {TEXT[0]}", _is_labels),
    "palette": ("null or a list of three numbers of 0 to 255 each", _is_palette),
    "ignore_index": _integer(0, 2**31 - 1),
    "num_codes": _integer(1, 2**31 - 1),
    "head_channels": _integer(1, 2**31 - 1),
    "width": ("a number above 0, of at most 1000", lambda v: _is_number(v) and 0 < v <= 1000),
    "output_stride": ("8, 16 or 32", lambda v: is_integer(v) and v in (8, 16, 32)),
    "laterals": SWITCH,
    "se_head": SWITCH,
    "aux_head": SWITCH,
    "align_corners": SWITCH,
    "dropout": _number(0, 1),
    "mean": _three(-1e6),
    "std": _three(0),
    "evaluation": ("null or a dict", lambda v: v is None or isinstance(v, dict)),
    # A path or a host of somebody else's choice. `get_config` never gives one.
    "backbone_weights": ("null", lambda v: v is None),
    "dtype": (
        "null, a name or the config of a policy",
        lambda v: v is None or isinstance(v, (str, dict)),
    ),
    "name": (f"null or {TEXT[0]}", lambda v: v is None or _is_text(v)),
}
# What `get_config` adds to the constructor's arguments: see `models/layer_changes.py`.
STATE: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "trainable": SWITCH,
    "layers": ("a dict of dicts, with LoRA ranks of 1 to 1024", _is_layers),
}


def _arguments(cls):
    """The names of the constructor's arguments, those of the base classes included."""
    own = [base for base in cls.__mro__ if issubclass(base, _encnet(cls)) and "__init__" in vars(base)]
    return {name for base in own for name in inspect.signature(base.__init__).parameters} - {"self"}


def _encnet(cls):
    return next(c for c in cls.__mro__ if keras.saving.get_registered_name(c) == ENCNET)


def _has_own_from_config(cls):
    return cls.from_config.__func__ is not _encnet(cls).from_config.__func__


def _without_compile_config(entries):
    """A backbone's optimizer and losses are no part of the network, and presets hold none."""
    return {name: value for name, value in entries.items() if name != "compile_config"}


def _refuse_constant(name):
    raise ValueError(f"{name} is not a number")


def _short(value, most=300):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


# === Objects that Keras makes ===


def _check_tree(value, depth):
    """Checks all that is in a config: depth, numbers, and the classes and functions that it names."""
    if depth == 0:
        raise ValueError(f"lists and dicts must be at most {MAX_DEPTH} deep.")
    if isinstance(value, dict):
        if "class_name" in value:
            _check_object(value)
        for name, item in value.items():
            # Layers that look words up read them from a file that is given as text.
            if name in ("vocabulary", "idf_weights", "filepath") and isinstance(item, str):
                raise ValueError(f"`{name}` must not be a file. Received: {_short(item)}")
            if name == "backbone_weights" and item is not None:
                raise ValueError(f"`{name}` must be null. Received: {_short(item)}")
            _check_tree(item, depth - 1)
        for node in _nodes(value):
            _check_node(node)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_tree(item, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite. Received: {value}")


def _nodes(value):
    """The calls of a layer or an operation, as its entry in a network's config lists them."""
    nodes = value.get("inbound_nodes")
    return nodes if isinstance(nodes, (list, tuple)) else ()


def _check_node(node):
    """Checks that a call has an input of the network: without one, Keras would compute it at once."""
    arguments = [node.get("args"), node.get("kwargs")] if isinstance(node, dict) else []
    if not _has_tensor(arguments):
        raise ValueError(f"each operation must have an input of the network. Received: {_short(node)}")


def _has_tensor(value):
    """Whether there is a tensor of the network among a call's arguments, where Keras looks for it."""
    if isinstance(value, (list, tuple)):
        return any(map(_has_tensor, value))
    if not isinstance(value, dict):
        return False
    kind = value.get("class_name")
    if kind == "__keras_tensor__":
        return "config" in value
    return kind is None and _has_tensor(list(value.values()))


def _check_object(value):
    """Checks that an object is a part of Keras's networks, or is registered in this process.

    `Lambda` layers and other code in a config are refused by Keras itself (its safe mode)."""
    name, module = value["class_name"], value.get("module")
    registered = value.get("config" if name == "function" else "registered_name", name)
    for key in (name, module, registered):
        if not isinstance(key, (str, type(None))):
            raise ValueError(f"an object must be given by names. Received: {_short(key)}")
    if name is None or _is_registered(registered):
        return
    if name == "__typespec__":
        raise ValueError("a network has no '__typespec__'.")
    if module is None and name.startswith("__"):
        return
    if name == "function":
        known = module == "builtins" or _is_in(module, FUNCTIONS)
    else:
        # A function would pass for a class.
        is_class = name[:1].isupper() and "." not in name
        known = is_class and (module == "keras" or _is_in(module, MODULES))
    if not known:
        raise ValueError(
            f"{_short(name)!r} of {_short(module)!r} is not a part of Keras's networks. If it is your "
            "own, register it with `keras.saving.register_keras_serializable` and import its module "
            "first."
        )


def _is_in(module, modules):
    place = (module or "").removeprefix("keras.").removeprefix("src.")
    return module != place and place.split(".")[0] in modules


def _is_registered(name):
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


def _registered_names(value):
    """The names of registered objects anywhere in a config."""
    if isinstance(value, dict):
        own = {
            name for key in ("registered_name", "class_name") if _is_registered(name := value.get(key))
        }
        return own.union(*map(_registered_names, value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*map(_registered_names, value))
    return {value} if _is_registered(value) else set()
