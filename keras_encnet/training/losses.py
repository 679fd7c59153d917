"""The losses of EncNet as functions of one mask.

Masks are integers `(batch, height, width)`. Logits are float32.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import losses, ops

from keras_encnet.data.conventions import check_integer
from keras_encnet.data.pairs import Pairs


def check_mask(masks, logits, *, any_dtype=False):
    """Raises an error if the shape or dtype of a batch of masks is wrong, even while a graph is made.

    Args:
        masks: what a dataset or the caller gave.
        logits: `(batch, height, width, num_classes)`.
        any_dtype: whether floats are allowed.

    Raises:
        ValueError: if masks are not integers `(batch, height, width)` or `(batch, height, width, 1)`
            of the size of the logits.
    """
    if not hasattr(masks, "shape"):
        received = "no masks" if masks is None else type(masks).__name__
        raise ValueError(
            "Masks must be one array or tensor of integers, (batch, height, width). "
            f"Received: {received}"
        )
    expected = (*logits.shape[:3],)
    one_hot = " They look one-hot: pass np.argmax(masks, axis=-1)."
    shape, dtype = tuple(masks.shape), keras.backend.standardize_dtype(masks.dtype)
    looks_one_hot = len(shape) == 4 and shape[-1] == logits.shape[-1] != 1
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (None,)) or _differ(shape, expected):
        raise ValueError(
            f"Masks must have shape {expected} or {(*expected, 1)}, one label per pixel. Received: "
            f"shape {shape}.{one_hot if looks_one_hot else ''}"
        )
    if "int" not in dtype and not any_dtype:
        raise ValueError(
            f"Masks must have an integer dtype. Received: dtype {dtype}. Pass masks.astype('uint8') if "
            "the values are labels."
        )


def _differ(shape, expected):
    """Whether two shapes differ where both are known."""
    return any(None not in (a, b) and a != b for a, b in zip(shape, expected, strict=False))


def split_mask(masks, num_classes):
    """Splits a mask into labels and a validity map.

    Values outside the classes are ignored, since the values of a tensor cannot be checked.

    Returns:
        `(labels, valid)`: `int32` labels, 0 where a pixel is ignored, and `float32` 1 where it is
        valid, otherwise 0, both `(batch, height, width)`.

    >>> labels, valid = split_mask(np.array([[[1, 255, 7]]]), 3)
    >>> np.asarray(labels).tolist(), np.asarray(valid).tolist()
    ([[[1, 0, 0]]], [[[1.0, 0.0, 0.0]]])
    """
    masks = ops.cast(ops.convert_to_tensor(masks), "int32")
    if len(masks.shape) == 4:
        masks = ops.squeeze(masks, axis=-1)
    inside = ops.logical_and(masks >= 0, masks < num_classes)
    return ops.where(inside, masks, 0), ops.cast(inside, "float32")


def per_pixel(weight, like):
    """A sample weight, one per image or one per pixel, as float32 of the shape of `like`."""
    weight = ops.cast(weight, "float32")
    shape = tuple(weight.shape)
    one_per_image = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    one_per_pixel = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, None))
    if not (one_per_image or one_per_pixel) or (one_per_pixel and _differ(shape, like.shape)):
        raise ValueError(
            "`sample_weight` must have one number per image, (batch,), or per pixel, (batch, height, "
            f"width). Received: shape {shape} for masks {tuple(like.shape)}"
        )
    if len(weight.shape) == 4:
        weight = ops.squeeze(weight, axis=-1)
    if one_per_image:
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
    # Calling a Loss makes tensors and reduces; `call` gives the values before the reduction.
    function = loss.call if isinstance(loss, losses.Loss) else loss
    values = function(ops.convert_to_tensor(labels), ops.convert_to_tensor(logits))
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


def pixel_loss_function(loss, num_classes):
    """The argument `loss` of `compile`, as a Keras loss or function for `pixel_loss`.

    Keras's losses read probabilities and, except for the sparse ones, one-hot labels, unless told
    otherwise. A name can be told; an object that reads them means something else.

    Raises:
        ValueError: if a Keras loss cannot read labels and logits.

    >>> pixel_loss_function("sparse_categorical_crossentropy", 3).from_logits
    True
    """
    if loss is None:
        return None
    names = ("crossentropy", "ce", "sparse_categorical_crossentropy", "SparseCategoricalCrossentropy")
    if loss is losses.sparse_categorical_crossentropy or (isinstance(loss, str) and loss in names):
        return losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = losses.get(loss)
    if type(loss) is losses.SparseCategoricalCrossentropy:
        if not loss.from_logits:
            raise ValueError(
                "`loss` gets logits, not probabilities. Received: SparseCategoricalCrossentropy with "
                "from_logits=False. Pass from_logits=True."
            )
        if loss.ignore_class in range(num_classes):
            raise ValueError(
                "`loss` must leave out no class. Received: SparseCategoricalCrossentropy with "
                f"ignore_class={loss.ignore_class}. Pass class_weight={{{loss.ignore_class}: 0}} to "
                "`compile`."
            )
    elif _is_of_keras(loss):
        raise ValueError(
            "`loss` must take labels (batch, height, width) and logits (batch, height, width, "
            f"num_classes). Received: {_name(loss)}, which takes one-hot labels or probabilities. Pass "
            "a function of labels and logits, such as lambda labels, logits: "
            "keras.losses.categorical_focal_crossentropy(keras.ops.one_hot(labels, "
            f"{num_classes}), logits, from_logits=True)."
        )
    if getattr(loss, "reduction", None) in ("sum", "mean_with_sample_weight"):
        raise ValueError(
            "`loss` cannot set how pixels are averaged. Received: reduction="
            f'{loss.reduction!r}. Leave it out, and pass average="all" or "counted" to `compile`.'
        )
    return loss


def _is_of_keras(loss):
    """Whether a loss, or a function, is one of Keras's own."""
    kind = type(loss) if isinstance(loss, losses.Loss) else loss
    return getattr(losses, getattr(kind, "__name__", ""), None) is kind and kind is not losses.Loss


def _name(thing):
    return getattr(thing, "__name__", type(thing).__name__)


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


def class_weights(pairs: Pairs | Sequence, num_classes: int) -> np.ndarray:
    """Weights for `compile(class_weight=...)` that give rare classes more weight; their mean is 1.

    They are proportional to `1 / ln(1.02 + p)` for a class with share `p` of the pixels, as in ENet
    (Paszke et al., 2016): the weight is at most 50, whereas 1/p is unbounded.

    Args:
        pairs: `keras_encnet.data.Pairs`, or any sequence of (image, mask); every mask is read.
        num_classes: number of classes; other values are ignored.

    Raises:
        ValueError: if `num_classes` is not a positive integer, or no mask has a class.

    >>> pairs = keras_encnet.data.Pairs([(np.zeros((32, 32, 3), "uint8"), np.eye(32, dtype="uint8"))])
    >>> class_weights(pairs, 2).round(2).tolist()
    [0.14, 1.86]
    """
    check_integer("num_classes", num_classes)
    pairs = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    counts = np.zeros(num_classes, "int64")
    for mask in (np.asarray(pairs.mask(i)) for i in range(len(pairs))):
        counts += np.bincount(mask[(mask >= 0) & (mask < num_classes)], minlength=num_classes)
    if not counts.any():
        raise ValueError(
            f"Masks must have pixels of the {num_classes} classes (0 to {num_classes - 1}). Received: "
            f"{len(pairs)} masks without any"
        )
    weights = 1 / np.log(1.02 + counts / counts.sum())
    return weights / weights.mean()
