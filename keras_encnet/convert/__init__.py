"""Weights of the two PyTorch code bases, by name."""

from keras_encnet.convert.state import load_state

__all__ = ["load_state"]
