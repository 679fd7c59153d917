"""EncNet for Keras 3: a semantic segmenter to load, fine-tune and serve."""

from keras_encnet import data, inference, layers, models, training
from keras_encnet.models.encnet import EncNet
from keras_encnet.presets import list_presets
from keras_encnet.version import __version__

__all__ = [
    "EncNet",
    "__version__",
    "data",
    "inference",
    "layers",
    "list_presets",
    "models",
    "training",
]
