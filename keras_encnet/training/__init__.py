"""What `model.fit` is made of: losses, PyTorch's SGD, schedules, recipes, runs, validation."""

from keras_encnet.training.balance import class_weights
from keras_encnet.training.checkpoint import Checkpoint
from keras_encnet.training.description import describe_run
from keras_encnet.training.freezing import freeze_batch_norms
from keras_encnet.training.losses import LOSSES
from keras_encnet.training.metrics import MeanIoU
from keras_encnet.training.optimizers import HEADS, SGD
from keras_encnet.training.pixel_losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    OhemLoss,
)
from keras_encnet.training.prediction_pictures import PredictionPictures
from keras_encnet.training.recipes import Recipe, recipe
from keras_encnet.training.run import train
from keras_encnet.training.schedules import PolynomialDecay
from keras_encnet.training.validation import ValidationScores

__all__ = [
    "HEADS",
    "LOSSES",
    "SGD",
    "Checkpoint",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "LovaszLoss",
    "MeanIoU",
    "OhemLoss",
    "PolynomialDecay",
    "PredictionPictures",
    "Recipe",
    "ValidationScores",
    "class_weights",
    "describe_run",
    "freeze_batch_norms",
    "recipe",
    "train",
]
