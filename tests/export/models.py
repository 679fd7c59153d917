"""Small networks with many classes in their label maps and non-trivial batch-norm statistics."""

import numpy as np

from golden.weights import image, state_dict
from keras_encnet import EncNet
from keras_encnet.convert.state import load_state, pytorch_shape, variable_keys

CLASSES = 7


def tiny(dtype=None, backbone="resnet18", num_classes=CLASSES, **options):
    model = EncNet(
        backbone, num_classes, width=0.125, head_channels=16, num_codes=4, dtype=dtype, **options
    )
    shapes = {
        key: pytorch_shape(key, variable.shape)
        for key, variable in variable_keys(model, "mmsegmentation")
    }
    load_state(model, state_dict(shapes), "mmsegmentation")
    # With equal mean logits on a picture, each class wins somewhere.
    logits = model.predict(image(0, 96, 128)[None], verbose=0)
    classifier = model.get_layer("pixel_logits")
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel, bias - logits.mean((0, 1, 2))])
    return model


def float32(model):
    """A float32 copy of a model."""
    copy = EncNet.from_config({**model.get_config(), "dtype": "float32"})
    copy.set_weights(model.get_weights())
    return copy


def classes_in(labels):
    """The number of classes with 2 % of the pixels or more."""
    return int((np.bincount(labels.ravel()) >= 0.02 * labels.size).sum())
