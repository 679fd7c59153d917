"""Layers that EncNet needs and Keras does not have."""

from keras_encnet.layers.batch_normalization import BatchNormalization
from keras_encnet.layers.conv_norm import ConvNorm
from keras_encnet.layers.encoding import Encoding
from keras_encnet.layers.resize import BilinearResize

__all__ = ["BatchNormalization", "BilinearResize", "ConvNorm", "Encoding"]
