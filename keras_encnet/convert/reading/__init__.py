"""Reads PyTorch checkpoints without PyTorch and without executing them."""

from keras_encnet.convert.reading.checkpoint import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]
