"""What `model.fit` is made of: losses, PyTorch's SGD, schedules, checkpoints, validation."""

from keras_encnet.training.checkpoint import Checkpoint
from keras_encnet.training.losses import class_weights
from keras_encnet.training.metrics import MeanIoU
from keras_encnet.training.optimizers import SGD, PolynomialDecay
from keras_encnet.training.run import train
from keras_encnet.training.validation import ValidationScores

__all__ = [
    "SGD",
    "Checkpoint",
    "MeanIoU",
    "PolynomialDecay",
    "ValidationScores",
    "class_weights",
    "train",
]
