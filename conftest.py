import os
import pathlib
import tempfile

import numpy as np
import pytest

# A model that is loaded, or made again, compiles to what is there already: half of JAX's time.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir(), "keras-encnet-jax"))
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(autouse=True)
def names_in_examples(doctest_namespace):
    """What the examples in docstrings may use without importing it."""
    import keras_encnet

    doctest_namespace.update(np=np, keras_encnet=keras_encnet)
