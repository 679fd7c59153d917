"""Batch norms that stay as they are while everything else trains."""

import keras

from keras_encnet.layers import BatchNormalization, ConvNorm


def freeze_batch_norms(network: keras.Layer, frozen: bool = True) -> None:
    """Makes batch norms normalize with their moving statistics in training too, and keep these.

    Kernels train, and so do the scale and the offset of the norms, as with `BatchNorm2d.eval()` in
    PyTorch and `norm_eval=True` in mmsegmentation. That helps where batches are too small for
    statistics of their own. `trainable = False` freezes kernels, scales and offsets as well.

    Of Keras's own batch norms, which a backbone of one's own may have, scale and offset are frozen too:
    they get `trainable = not frozen`.

    Saving, copying and resuming keep what is frozen. It takes effect with the next `model.compile`.

    Args:
        network: a model, `model.backbone`, or a layer.
        frozen: `False` undoes it.

    >>> model = keras_encnet.EncNet("resnet18", num_classes=2, width=0.125, head_channels=16)
    >>> freeze_batch_norms(model.backbone)
    >>> model.backbone.get_layer("stem_conv1").frozen_statistics
    True
    >>> model.get_layer("bottleneck").frozen_statistics
    False
    """
    for layer in network._flatten_layers():
        if isinstance(layer, (ConvNorm, BatchNormalization)):
            layer.frozen_statistics = frozen
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not frozen
