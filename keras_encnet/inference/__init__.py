"""From an image of any size to a label map: the protocol, the result, the pictures, the scores."""

from keras_encnet.inference.pictures import comparison, default_palette
from keras_encnet.inference.scores import Scores, evaluate, scores
from keras_encnet.inference.segment import segment
from keras_encnet.inference.segmentation import Segmentation

__all__ = [
    "Scores",
    "Segmentation",
    "comparison",
    "default_palette",
    "evaluate",
    "scores",
    "segment",
]
