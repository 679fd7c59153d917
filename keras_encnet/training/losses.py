"""The losses of EncNet as functions of one mask.

Masks are integers `(batch, height, width)`. Logits are float32.
"""

import numpy as np
from keras import losses, ops


def split_mask(masks, num_classes, ignore_index):
    """Separates what a mask says from where it says nothing.

    Values outside the classes count as `ignore_index`, since a tensor's values cannot be refused.

    Returns:
        `(labels, counted, stray)`: `int32` labels with 0 where a pixel is ignored, `float32` ones
        where it counts, both `(batch, height, width)`, and the number of values outside the classes.

    >>> labels, counted, stray = split_mask(np.array([[[1, 255, 7]]]), 3, 255)
    >>> np.asarray(labels).tolist(), np.asarray(counted).tolist(), int(stray)
    ([[[1, 0, 0]]], [[[1.0, 0.0, 0.0]]], 1)
    """
    masks = ops.cast(ops.convert_to_tensor(masks), "int32")
    if len(masks.shape) == 4:
        masks = ops.squeeze(masks, axis=-1)
    inside = ops.logical_and(masks >= 0, masks < num_classes)
    stray = ops.logical_and(ops.logical_not(inside), masks != ignore_index)
    return (
        ops.where(inside, masks, 0),
        ops.cast(inside, "float32"),
        ops.sum(ops.cast(stray, "int32")),
    )


def per_pixel(weight, like):
    """A sample weight, one an image or one a pixel, as float32 that broadcasts over `like`."""
    weight = ops.cast(weight, "float32")
    if len(weight.shape) == 4:
        weight = ops.squeeze(weight, axis=-1)
    if len(weight.shape) < 3:
        weight = ops.reshape(weight, (-1, 1, 1))
    return weight * ops.ones_like(like)


def pixel_loss(
    labels,
    counted,
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
        counted: the same shape, 1 where a pixel counts.
        logits: `(batch, height, width, num_classes)`.
        loss: a Keras loss or a function of (labels, logits) that gives one value for each pixel.
        class_weight: `(num_classes,)` weights. As in PyTorch the mean is then a weighted one.
        sample_weight: factors, `(batch, height, width)`.
        average: `"all"` divides by the number of pixels, ignored ones included, as mmsegmentation
            does; `"counted"` by the number of those that count, as PyTorch-Encoding does.

    >>> labels, counted = np.array([[[0, 1]]]), np.array([[[1.0, 0.0]]], "float32")
    >>> logits = np.zeros((1, 1, 2, 2), "float32")
    >>> [round(float(pixel_loss(labels, counted, logits, average=a)), 4) for a in AVERAGES]
    [0.3466, 0.6931]
    """
    values = _values(loss, labels, logits)
    weight = counted
    if class_weight is not None:
        weight = counted * ops.take(ops.convert_to_tensor(class_weight, "float32"), labels)
    total = ops.sum(weight)
    if average == "all":
        total = total + ops.sum(1 - counted)
    if sample_weight is not None:
        weight = weight * sample_weight
    # Without a pixel that counts, the sum above is 0 and so is the loss.
    return ops.sum(values * weight) / ops.where(total > 0, total, 1)


AVERAGES = ("all", "counted")


def _values(loss, labels, logits):
    if loss is None:
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    # A Loss reduces when called; what it reduces is wanted here.
    function = loss.call if isinstance(loss, losses.Loss) else loss
    values = function(labels, logits)
    if len(values.shape) != 3:
        raise ValueError(
            "The pixel loss must give a value for each pixel, (batch, height, width), from labels "
            f"of that shape and logits (batch, height, width, num_classes). {loss!r} gave shape "
            f"{tuple(values.shape)}."
        )
    return values


def presence(labels, counted, num_classes):
    """Which classes an image holds: `float32` `(batch, num_classes)` of 0 and 1.

    >>> labels, counted = np.array([[[2, 0]]], "int32"), np.array([[[1.0, 0.0]]], "float32")
    >>> np.asarray(presence(labels, counted, 3)).tolist()
    [[0.0, 0.0, 1.0]]
    """
    batch = ops.shape(labels)[0]
    # Counting into one bin for each image and class spares a one-hot tensor of every pixel.
    bins = ops.reshape(labels, (batch, -1)) + num_classes * ops.arange(batch, dtype="int32")[:, None]
    counts = ops.segment_sum(
        ops.reshape(counted, (-1,)), ops.reshape(bins, (-1,)), num_segments=batch * num_classes
    )
    return ops.cast(ops.reshape(counts, (batch, num_classes)) > 0, "float32")


def se_loss(labels, counted, se_logits):
    """The semantic encoding loss: binary cross-entropy on which classes are present.

    The mean over images and classes, an image without counted pixels included, as in
    mmsegmentation; but 0 where no image of the batch has any.
    """
    target = presence(labels, counted, se_logits.shape[-1])
    loss = ops.mean(ops.binary_crossentropy(target, se_logits, from_logits=True))
    return loss * ops.cast(ops.any(counted > 0), "float32")


def class_weights(pairs, num_classes):
    """Weights for `compile(class_weight=...)` that make rare classes count more, of mean 1.

    `1 / ln(1.02 + p)` of a class's share of the pixels `p`, as ENet (Paszke et al., 2016) has them:
    at most 50 times, where the inverse of `p` knows no bound.

    Args:
        pairs: `keras_encnet.data.Pairs`; every mask is read.
        num_classes: number of classes; other values are left out.

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
