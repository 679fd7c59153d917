"""What `model.fit` is made of: losses, PyTorch's SGD, schedules, checkpoints."""

from keras_encnet.training.checkpoint import Checkpoint
from keras_encnet.training.losses import class_weights
from keras_encnet.training.metrics import MeanIoU
from keras_encnet.training.optimizers import SGD, PolynomialDecay
from keras_encnet.training.run import train

__all__ = ["SGD", "Checkpoint", "MeanIoU", "PolynomialDecay", "class_weights", "train"]
