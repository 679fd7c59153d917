import os
import pathlib
import tempfile

import numpy as np
import pytest

# The same model is compiled by many tests: a cache on disk halves the time that JAX takes.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir(), "keras-encnet-jax"))
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(autouse=True)
def names_in_examples(doctest_namespace):
    """Names that docstring examples use without importing them."""
    import keras_encnet

    doctest_namespace.update(np=np, keras_encnet=keras_encnet)


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz", type=int, default=200, help="number of random inputs of each fuzzer (default: 200)"
    )
    parser.addoption("--fuzz-seed", type=int, default=0, help="seed of the fuzzers (default: 0)")


@pytest.fixture
def fuzz(request):
    """`(number of inputs, seed)` for a fuzzer."""
    return request.config.getoption("--fuzz"), request.config.getoption("--fuzz-seed")
