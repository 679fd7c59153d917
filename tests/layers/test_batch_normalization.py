"""BatchNormalization, compared with PyTorch's formulas by hand."""

import numpy as np
import pytest

from backend import numpy
from golden.weights import noise
from keras_encnet.layers import BatchNormalization

X = (3 + 2 * noise("x", (2, 3, 5))).astype("float32")


def layer(**options):
    return BatchNormalization(axis=1, momentum=0.9, epsilon=1e-5, **options)


def test_training_uses_batch_statistics_and_keeps_the_unbiased_variance():
    norm = layer()
    y = numpy(norm(X, training=True))
    rows = X.transpose(1, 0, 2).reshape(3, -1).astype("float64")
    expected = (rows - rows.mean(1)[:, None]) / np.sqrt(rows.var(1)[:, None] + 1e-5)
    np.testing.assert_allclose(y.transpose(1, 0, 2).reshape(3, -1), expected, atol=1e-5)
    np.testing.assert_allclose(numpy(norm.moving_mean), 0.1 * rows.mean(1), rtol=1e-5)
    np.testing.assert_allclose(numpy(norm.moving_variance), 0.9 + 0.1 * rows.var(1, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("options", [{"trainable": False}, {"frozen_statistics": True}])
def test_frozen_statistics_are_used_and_kept(options):
    norm = layer(**options)
    expected = numpy(norm(X))
    np.testing.assert_array_equal(numpy(norm(X, training=True)), expected)
    np.testing.assert_array_equal(numpy(norm.moving_mean), 0)
    assert len(norm.trainable_weights) == (0 if "trainable" in options else 2)
    assert BatchNormalization.from_config(norm.get_config()).get_config() == norm.get_config()
