"""The network: dilated ResNet, heads, and the EncNet that joins them."""

from keras_encnet.models.encnet import EncNet
from keras_encnet.models.resnet import resnet

__all__ = ["EncNet", "resnet"]
