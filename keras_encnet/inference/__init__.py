"""From an image of any size to a label map: how it is looked at, the result, pictures, scores."""

from keras_encnet.inference.evaluation import evaluate
from keras_encnet.inference.pictures import comparison
from keras_encnet.inference.records import ImageRecord
from keras_encnet.inference.scoring import Scores, score
from keras_encnet.inference.segmentation import Segmentation
from keras_encnet.inference.segmenting import segment

__all__ = [
    "ImageRecord",
    "Scores",
    "Segmentation",
    "comparison",
    "evaluate",
    "score",
    "segment",
]
