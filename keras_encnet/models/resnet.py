"""The dilated ResNet backbone of EncNet, as both PyTorch code bases build it."""

import difflib

import keras
from keras import layers

from keras_encnet.layers import ConvNorm

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}

# Channels of the three 3×3 convolutions that replace the 7×7 convolution of stem "v1".
STEMS = {"v1": None, "v1c": (32, 32, 64), "s": (64, 64, 128)}

BACKBONES = {
    f"resnet{depth}{suffix}": {"depth": depth, "stem": stem}
    for suffix, stem in (("", "v1c"), ("_v1", "v1"), ("s", "s"))
    for depth in BLOCKS
}


def resnet(depth, *, stem="v1c", width=1.0, output_stride=8, name=None):
    """A dilated ResNet without a classifier.

    Input: normalized RGB, `(batch, height, width, 3)`. Output: a list of four feature maps with
    strides 4, 8, `min(16, output_stride)` and `output_stride`.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem: `"v1"` is the 7×7 convolution of the paper, `"v1c"` three 3×3 convolutions with 32, 32
            and 64 channels (mmsegmentation), `"s"` three with 64, 64 and 128 (PyTorch-Encoding).
        width: factor on every number of channels.
        output_stride: 8, 16 or 32; later stages dilate instead of striding.
        name: the model's name.

    Raises:
        ValueError: if an argument is not one of the values above.

    >>> features = keras_encnet.models.resnet.resnet(18, width=0.25)(np.ones((1, 65, 64, 3)))
    >>> [tuple(x.shape) for x in features]
    [(1, 17, 16, 16), (1, 9, 8, 32), (1, 9, 8, 64), (1, 9, 8, 128)]
    """
    for argument, value, known in (
        ("depth", depth, BLOCKS),
        ("stem", stem, STEMS),
        ("output_stride", output_stride, STRIDES),
    ):
        if value not in known:
            raise ValueError(f"`{argument}` must be one of {list(known)}. Received: {value!r}")
    if not width > 0:
        raise ValueError(f"`width` must be positive. Received: {width!r}")

    def channels(count):
        return max(1, round(count * width))

    block, expansion = (basic_block, 1) if depth < 50 else (bottleneck, 4)
    inputs = keras.Input((None, None, 3), name="images")
    if stem == "v1":
        x = ConvNorm(channels(64), 7, strides=2, name="stem_conv1")(inputs)
    else:
        x = inputs
        for i, count in enumerate(STEMS[stem], 1):
            stride = 2 if i == 1 else 1
            x = ConvNorm(channels(count), 3, strides=stride, name=f"stem_conv{i}")(x)
    # Zeros are safe for max-pooling: after a ReLU nothing is smaller.
    x = layers.ZeroPadding2D(1, name="stem_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)

    features = []
    stages = zip(BLOCKS[depth], STRIDES[output_stride], DILATIONS[output_stride], strict=True)
    for i, (count, stride, dilation) in enumerate(stages, 1):
        filters = channels(64 * 2 ** (i - 1))
        for j in range(1, count + 1):
            first = j == 1
            x = block(
                x,
                filters,
                expansion * filters,
                strides=stride if first else 1,
                # As `contract_dilation` does it: a stage's first block has half the dilation.
                dilation_rate=max(1, dilation // 2) if first else dilation,
                name=f"stage{i}_block{j}",
            )
        features.append(x)
    return keras.Model(inputs, features, name=name or f"resnet{depth}")


def basic_block(x, filters, out_channels, *, strides, dilation_rate, name):
    """Two 3×3 convolutions and a shortcut (ResNet-18 and -34); only the first dilates."""
    y = ConvNorm(filters, 3, strides=strides, dilation_rate=dilation_rate, name=f"{name}_conv1")(x)
    y = ConvNorm(out_channels, 3, relu=False, gamma_initializer="zeros", name=f"{name}_conv2")(y)
    return add_shortcut(x, y, strides, name)


def bottleneck(x, filters, out_channels, *, strides, dilation_rate, name):
    """1×1, 3×3 and 1×1 convolutions and a shortcut (ResNet-50 and deeper)."""
    y = ConvNorm(filters, 1, name=f"{name}_conv1")(x)
    y = ConvNorm(filters, 3, strides=strides, dilation_rate=dilation_rate, name=f"{name}_conv2")(y)
    y = ConvNorm(out_channels, 1, relu=False, gamma_initializer="zeros", name=f"{name}_conv3")(y)
    return add_shortcut(x, y, strides, name)


def add_shortcut(x, y, strides, name):
    if strides > 1 or x.shape[-1] != y.shape[-1]:
        x = ConvNorm(y.shape[-1], 1, strides=strides, relu=False, name=f"{name}_shortcut")(x)
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(x)


def backbone_by_name(name, *, width=1.0, output_stride=8):
    """The backbone for `EncNet(name, …)`.

    Raises:
        ValueError: if `name` is unknown; the message suggests a similar name.
    """
    if name not in BACKBONES:
        near = difflib.get_close_matches(str(name).lower(), BACKBONES, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`backbone` must be one of {', '.join(BACKBONES)}, or a keras.Model that returns feature "
            f"maps from shallow to deep. Received: {name!r}.{hint}"
        )
    return resnet(**BACKBONES[name], width=width, output_stride=output_stride, name=name)
