"""What the package as a whole promises."""

import pathlib
import subprocess
import sys

import keras
import pytest

import keras_encnet


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="needs another backend")
def test_trains_and_segments_where_tensorflow_cannot_be_imported():
    script = pathlib.Path(__file__).with_name("without_tensorflow.py")
    command = [sys.executable, str(script), keras.backend.backend()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_exist():
    assert set(keras_encnet.__all__) <= set(dir(keras_encnet))
    for module in (keras_encnet.data, keras_encnet.inference, keras_encnet.training):
        assert set(module.__all__) <= set(dir(module))
