"""The package as a whole: what it offers, what it needs, and how its modules depend on each other."""

import pathlib
import pkgutil
import subprocess
import sys
import types

import keras
import pytest
from imports import import_graph

import keras_encnet

TESTS = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(keras_encnet.__file__).parent


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="needs another backend")
def test_trains_and_segments_without_tensorflow():
    command = [sys.executable, str(TESTS / "without_tensorflow.py"), keras.backend.backend()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_exist():
    assert set(keras_encnet.__all__) <= set(dir(keras_encnet))
    for module in (keras_encnet.data, keras_encnet.inference, keras_encnet.training):
        assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize(
    "command,program,is_command",
    [
        ("keras-encnet --help", "/env/bin/keras-encnet", True),
        ("python -m keras_encnet --help", "-m", True),
        ("python -u -m keras_encnet.cli", "-m", True),
        ("python -m keras_encnet.export.child", "-m", False),
        ("python -m notebook", "-m", False),
        ("python train.py", "train.py", False),
        ("python", "", False),
    ],
)
def test_only_the_command_puts_the_import_of_keras_off(monkeypatch, command, program, is_command):
    """A program that imports the package may call `keras.saving.load_model` at once."""
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "orig_argv", command.split())
    assert keras_encnet._is_command() == is_command
    assert keras.saving.get_registered_object("keras_encnet>EncNet") is keras_encnet.EncNet


def find_circles(directory):
    """Runs `imports.py`; returns its exit status and the circles it prints."""
    command = [sys.executable, str(TESTS / "imports.py"), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def write_package(directory, files):
    for name, source in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        (file.parent / "__init__.py").touch()


def test_the_package_has_no_import_circles():
    assert find_circles(PACKAGE) == (0, [])


@pytest.mark.parametrize(
    "source",
    ["from toy.low.b import y", "from ..low import b", "import toy.low.b", "import toy.low.b as z"],
)
def test_a_circle_through_an_import_inside_a_function_is_found(tmp_path, source):
    files = {
        "high/a.py": f"import os\n\ndef x():\n    {source}\n",
        "low/b.py": "from toy.high import a\n",
        "low/c.py": "import toy.high.a\n",
    }
    write_package(tmp_path / "toy", files)
    assert find_circles(tmp_path / "toy") == (1, ["toy.high.a -> toy.low.b -> toy.high.a"])


def test_a_circle_through_a_package_s_init_is_found(tmp_path):
    files = {
        "high/a.py": "import toy.low.b\n",
        "low/b.py": "",
        "low/c.py": "import toy.high.a\n",
    }
    write_package(tmp_path / "toy", files)
    assert find_circles(tmp_path / "toy") == (0, [])
    (tmp_path / "toy" / "low" / "__init__.py").write_text("from toy.low.c import x\n")
    circle = "toy.high.a -> toy.low -> toy.low.c -> toy.high.a"
    assert find_circles(tmp_path / "toy") == (1, [circle])


def test_imports_for_type_checkers_are_not_circles(tmp_path):
    files = {
        "a.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from toy import b\n",
        "b.py": "import toy.a\n",
    }
    write_package(tmp_path / "toy", files)
    assert find_circles(tmp_path / "toy") == (0, [])


def test_rooms_import_only_what_they_may():
    graph = {
        module: {name.removeprefix("keras_encnet.") for name in imported}
        for module, imported in import_graph(PACKAGE).items()
    }

    def importers(name):
        return {module.removeprefix("keras_encnet.") for module in graph if name in graph[module]}

    def rooms(room):
        """The rooms that a room's modules import, itself left out."""
        inside = [names for module, names in graph.items() if module.split(".")[1:2] == [room]]
        return {name.split(".")[0] for names in inside for name in names} - {room}

    assert importers("keras_encnet") <= {"cli"}
    assert importers("cli") == {"__main__"}
    assert importers("commands") == {"cli"}
    assert importers("command_data") == {"commands", "command_training"}
    assert importers("command_training") == {"commands"}
    assert not rooms("layers")
    assert rooms("data") <= {"files"}
    assert rooms("zoo") <= {"data"}
    assert rooms("training") <= {"data", "files", "inference", "layers", "zoo", "version"}
    assert rooms("inference") <= {"data", "files", "layers", "version"}
    assert rooms("convert") <= {"data", "inference", "layers", "models"}
    assert rooms("presets") <= {
        "convert",
        "data",
        "files",
        "inference",
        "layers",
        "processes",
        "version",
        "zoo",
    }


def test_no_module_is_hidden_by_a_function_of_its_name():
    for package in (keras_encnet, *vars(keras_encnet).values()):
        if hasattr(package, "__path__"):
            for module in pkgutil.iter_modules(package.__path__):
                assert isinstance(getattr(package, module.name, keras_encnet), types.ModuleType), module
