"""EncNet for Keras 3: a semantic segmenter to load, fine-tune and serve."""

from keras_encnet import data, inference, layers, models, training
from keras_encnet.models.encnet import EncNet
from keras_encnet.presets import list_presets

__version__ = "0.1.0.dev0"
__all__ = ["EncNet", "data", "inference", "layers", "list_presets", "models", "training"]
