"""Imports, trains and segments where TensorFlow cannot be imported:

python tests/without_tensorflow.py jax|torch
"""

import importlib.machinery
import os
import sys

os.environ["KERAS_BACKEND"] = sys.argv[1]
HIDDEN = ("tensorflow", "tensorflow_datasets")


class FinderWithoutTensorFlow(importlib.machinery.PathFinder):
    """Finds installed modules, except the hidden ones."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            return None
        return super().find_spec(name, path, target)


sys.meta_path[:] = [
    FinderWithoutTensorFlow if finder is importlib.machinery.PathFinder else finder
    for finder in sys.meta_path
]

import numpy as np  # noqa: E402

import keras_encnet  # noqa: E402
from keras_encnet.demo import scenes  # noqa: E402

pairs = scenes(4, size=(64, 80))
model = keras_encnet.EncNet(
    "resnet18", len(pairs.labels), labels=pairs.labels, width=0.125, head_channels=8
)
model.compile()
data = keras_encnet.data.batches(pairs, size=(48, 64), batch_size=2, augment=True, seed=0)
history = model.fit(data, epochs=1, verbose=0).history
assert np.isfinite(history["loss"]).all()
assert model.segment(pairs[0][0]).label_map.shape == (64, 80)
assert "tensorflow" not in sys.modules
print(f"{sys.argv[1]}: trained and segmented without TensorFlow")
