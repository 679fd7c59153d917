"""EncNet for Keras 3: a semantic segmenter to load, fine-tune and serve."""

from keras_encnet import data, layers, models, training
from keras_encnet.models.encnet import EncNet

__version__ = "0.1.0.dev0"
__all__ = ["EncNet", "data", "layers", "models", "training"]
