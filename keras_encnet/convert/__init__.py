"""Weights of the PyTorch code bases: `reading` opens their files, this package maps them to models."""

from keras_encnet.convert.pytorch import (
    backbone_from_checkpoint,
    encnet_from_checkpoint,
    is_backbone,
)
from keras_encnet.convert.reading import read_checkpoint
from keras_encnet.convert.state import load_state

__all__ = [
    "backbone_from_checkpoint",
    "encnet_from_checkpoint",
    "is_backbone",
    "load_state",
    "read_checkpoint",
]
