"""The two heads of EncNet as functions of feature maps."""

import keras
from keras import layers

from keras_encnet.layers import BatchNormalization, BilinearResize, ConvNorm, Encoding


def enc_head(
    features,
    num_classes,
    *,
    channels=512,
    num_codes=32,
    laterals=False,
    se_head=True,
    align_corners=False,
    dropout=0.1,
):
    """The Context Encoding Module and its classifiers (figure 2 of the paper).

    Args:
        features: feature maps from shallow to deep, `(batch, h, w, c)` each.
        num_classes: number of classes.
        channels: channels of the head.
        num_codes: number of codewords of the Encoding layer.
        laterals: whether to fuse in the two maps before the last one.
        se_head: whether to predict which classes are in the scene.
        align_corners: corner rule for resizing laterals of another size.
        dropout: rate at which whole channels are dropped before the classifier.

    Returns:
        `(logits, se)`, both float32: pixel logits `(batch, h, w, num_classes)` at the last map's
        size, and presence logits `(batch, num_classes)` or `None`.
    """
    x = ConvNorm(channels, 3, name="bottleneck")(features[-1])
    if laterals:
        fused = [x]
        for i, feature in enumerate(features[-3:-1], 1):
            lateral = ConvNorm(channels, 1, name=f"lateral{i}")(feature)
            fused.append(BilinearResize(align_corners, name=f"lateral{i}_resize")(lateral, x))
        x = layers.Concatenate(name="lateral_concat")(fused)
        x = ConvNorm(channels, 3, name="fusion")(x)

    code, x = context_encoding(x, num_codes)
    se = layers.Dense(num_classes, name="se_logits", dtype="float32")(code) if se_head else None
    return classifier(x, num_classes, dropout, name="pixel"), se


def context_encoding(x, num_codes):
    """Encodes the global context of a feature map, which then gates the map's channels.

    Returns `(code, gated)`: float32 `(batch, channels)`, and a map of the shape of `x`.
    """
    channels = x.shape[-1]
    code = ConvNorm(channels, 1, name="encoding_project")(x)
    # Sums over all positions need float32 until they are normalized and averaged.
    code = Encoding(num_codes, name="encoding", dtype="float32")(code)
    code = BatchNormalization(
        axis=1, momentum=0.9, epsilon=1e-5, name="encoding_norm", dtype="float32"
    )(code)
    code = layers.ReLU(name="encoding_relu", dtype="float32")(code)
    code = layers.GlobalAveragePooling1D(name="encoding_mean", dtype="float32")(code)

    gate = layers.Dense(channels, activation="sigmoid", name="gate")(code)
    gate = layers.Reshape((1, 1, channels), name="gate_reshape")(gate)
    gated = layers.Add(name="gate_add")([x, layers.Multiply(name="gate_scale")([x, gate])])
    return code, layers.ReLU(name="gate_relu")(gated)


def fcn_head(x, num_classes, *, dropout=0.1):
    """The auxiliary head: pixel logits `(batch, h, w, num_classes)`, float32, from one feature map."""
    x = ConvNorm(max(1, x.shape[-1] // 4), 3, name="aux_conv")(x)
    return classifier(x, num_classes, dropout, name="aux")


def classifier(x, num_classes, dropout, *, name):
    x = layers.SpatialDropout2D(dropout, name=f"{name}_dropout")(x)
    return layers.Conv2D(
        num_classes,
        1,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name=f"{name}_logits",
        # In half precision many logits would be equal.
        dtype="float32",
    )(x)
