"""The losses of EncNet as functions of one mask.

Masks are integers `(batch, height, width)`. Logits are float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import losses, ops

from keras_encnet.data.pairs import Pairs


def split_mask(masks, num_classes, ignore_index):
    """Splits a mask into labels and a validity map.

    Values outside the classes are ignored, since the values of a tensor cannot be checked.

    Returns:
        `(labels, valid, invalid_count)`: `int32` labels, 0 where a pixel is ignored, and `float32`
        1 where it is valid, otherwise 0, both `(batch, height, width)`; and the number of values
        that are neither a class nor `ignore_index`.

    >>> labels, valid, invalid_count = split_mask(np.array([[[1, 255, 7]]]), 3, 255)
    >>> np.asarray(labels).tolist(), np.asarray(valid).tolist(), int(invalid_count)
    ([[[1, 0, 0]]], [[[1.0, 0.0, 0.0]]], 1)
    """
    masks = ops.cast(ops.convert_to_tensor(masks), "int32")
    if len(masks.shape) == 4:
        masks = ops.squeeze(masks, axis=-1)
    inside = ops.logical_and(masks >= 0, masks < num_classes)
    invalid = ops.logical_and(ops.logical_not(inside), masks != ignore_index)
    return (
        ops.where(inside, masks, 0),
        ops.cast(inside, "float32"),
        ops.sum(ops.cast(invalid, "int32")),
    )


def per_pixel(weight, like):
    """A sample weight, one per image or one per pixel, as float32 of the shape of `like`."""
    weight = ops.cast(weight, "float32")
    if len(weight.shape) == 4:
        weight = ops.squeeze(weight, axis=-1)
    if len(weight.shape) < 3:
        weight = ops.reshape(weight, (-1, 1, 1))
    return weight * ops.ones_like(like)


def pixel_loss(
    labels,
    valid,
    logits,
    *,
    loss=None,
    class_weight=None,
    sample_weight=None,
    average="all",
):
    """Mean over pixels of `loss`, by default the cross-entropy.

    Args:
        labels: `(batch, height, width)`, from `split_mask`.
        valid: the same shape, 1 where a pixel is valid, 0 where it is ignored.
        logits: `(batch, height, width, num_classes)`.
        loss: a Keras loss or a function of (labels, logits) that returns one value per pixel.
        class_weight: `(num_classes,)` weights; the mean is then a weighted one, as in PyTorch.
        sample_weight: factors, `(batch, height, width)`.
        average: `"all"` divides by the number of pixels, ignored ones included, as mmsegmentation
            does; `"counted"` by the number of valid pixels, as PyTorch-Encoding does.

    >>> labels, valid = np.array([[[0, 1]]]), np.array([[[1.0, 0.0]]], "float32")
    >>> logits = np.zeros((1, 1, 2, 2), "float32")
    >>> [round(float(pixel_loss(labels, valid, logits, average=a)), 4) for a in AVERAGES]
    [0.3466, 0.6931]
    """
    values = _values(loss, labels, logits)
    weight = valid
    if class_weight is not None:
        weight = valid * ops.take(ops.convert_to_tensor(class_weight, "float32"), labels)
    total = ops.sum(weight)
    if average == "all":
        total = total + ops.sum(1 - valid)
    if sample_weight is not None:
        weight = weight * sample_weight
    # Without a valid pixel the sum below is 0, and so is the loss.
    return ops.sum(values * weight) / ops.where(total > 0, total, 1)


AVERAGES = ("all", "counted")


def _values(loss, labels, logits):
    if loss is None:
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    # Calling a Loss reduces; `call` gives the values before that.
    function = loss.call if isinstance(loss, losses.Loss) else loss
    values = function(labels, logits)
    if len(values.shape) != 3:
        raise ValueError(
            "`loss` must return a value for each pixel, (batch, height, width), from labels of that "
            f"shape and logits (batch, height, width, num_classes). Received: {loss!r}, which "
            f"returned shape {tuple(values.shape)}"
        )
    return values


def presence(labels, valid, num_classes):
    """Which classes each image contains: `float32` `(batch, num_classes)` of 0 and 1.

    >>> labels, valid = np.array([[[2, 0]]], "int32"), np.array([[[1.0, 0.0]]], "float32")
    >>> np.asarray(presence(labels, valid, 3)).tolist()
    [[0.0, 0.0, 1.0]]
    """
    batch = ops.shape(labels)[0]
    # Counting into one bin per image and class avoids a one-hot tensor of every pixel.
    bins = ops.reshape(labels, (batch, -1)) + num_classes * ops.arange(batch, dtype="int32")[:, None]
    counts = ops.segment_sum(
        ops.reshape(valid, (-1,)), ops.reshape(bins, (-1,)), num_segments=batch * num_classes
    )
    return ops.cast(ops.reshape(counts, (batch, num_classes)) > 0, "float32")


def se_loss(labels, valid, se_logits, **_):
    """The semantic encoding loss: binary cross-entropy on which classes are present.

    This is the mean over images and classes, including images without valid pixels, as in
    mmsegmentation; but it is 0 if no image of the batch has a valid pixel.
    """
    target = presence(labels, valid, se_logits.shape[-1])
    loss = ops.mean(ops.binary_crossentropy(target, se_logits, from_logits=True))
    return loss * ops.cast(ops.any(valid > 0), "float32")


class Term(NamedTuple):
    """One term of the training loss.

    `output` is the output of the model that it takes, `weight` its default weight, and `loss` a
    function of labels, validity map, that output, and the options of `pixel_loss` as keywords."""

    output: str
    weight: float
    loss: Callable


# A term is logged as `NAME_loss`, and `compile(NAME_weight=...)` sets its weight.
TERMS = {
    "pixel": Term("logits", 1.0, pixel_loss),
    "aux": Term("aux", 0.4, pixel_loss),
    "se": Term("se", 0.2, se_loss),
}


def class_weights(pairs: Pairs, num_classes: int) -> np.ndarray:
    """Weights for `compile(class_weight=...)` that give rare classes more weight; their mean is 1.

    They are proportional to `1 / ln(1.02 + p)` for a class with share `p` of the pixels, as in ENet
    (Paszke et al., 2016): the weight is at most 50, whereas 1/p is unbounded.

    Args:
        pairs: `keras_encnet.data.Pairs`; every mask is read.
        num_classes: number of classes; other values are ignored.

    >>> pairs = keras_encnet.data.Pairs([(np.zeros((32, 32, 3), "uint8"), np.eye(32, dtype="uint8"))])
    >>> class_weights(pairs, 2).round(2).tolist()
    [0.14, 1.86]
    """
    counts = sum(
        np.bincount(mask[(mask >= 0) & (mask < num_classes)], minlength=num_classes)
        for mask in (pairs.mask(i) for i in range(len(pairs)))
    )
    weights = 1 / np.log(1.02 + counts / max(counts.sum(), 1))
    return weights / weights.mean()
