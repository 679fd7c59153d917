"""What `model.fit` is made of: losses, PyTorch's SGD, schedules, checkpoints."""

from keras_encnet.training.checkpoint import Checkpoint
from keras_encnet.training.optimizers import SGD, PolynomialDecay

__all__ = ["SGD", "Checkpoint", "PolynomialDecay"]
