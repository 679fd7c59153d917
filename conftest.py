import numpy as np
import pytest


@pytest.fixture(autouse=True)
def names_in_examples(doctest_namespace):
    """What the examples in docstrings may use without importing it."""
    import keras_encnet

    doctest_namespace.update(np=np, keras_encnet=keras_encnet)
