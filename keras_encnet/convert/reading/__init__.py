"""The file formats of PyTorch checkpoints, read without PyTorch and without running them."""

from keras_encnet.convert.reading.checkpoint import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]
