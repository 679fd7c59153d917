"""A complete EncNet, small enough for every backend to compile quickly."""

import keras

from keras_encnet import EncNet
from keras_encnet.layers import ConvNorm


def tiny(**options):
    """An EncNet for three classes on three convolutions, with the same weights each time."""
    keras.utils.set_random_seed(0)
    x = images = keras.Input((None, None, 3), name="images")
    features = []
    for i, filters in enumerate((4, 8, 8), 1):
        x = ConvNorm(filters, 3, strides=2, name=f"conv{i}", dtype=options.get("dtype"))(x)
        features.append(x)
    backbone = keras.Model(images, features, name="backbone")
    return EncNet(backbone, 3, **{"head_channels": 8, "dropout": 0.0} | options)
