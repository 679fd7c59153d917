"""The losses of EncNet as functions of one mask.

Masks are integers `(batch, height, width)`. Logits are float32.
"""

import dataclasses
import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import keras
from keras import losses, ops

from keras_encnet.layers.replicas import global_sum
from keras_encnet.training.pixel_losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    OhemLoss,
    PixelLoss,
    mean_over_pixels,
    of_label,
)

AVERAGES = ("all", "counted")

# What `compile(loss=NAME)` is.
LOSSES = {
    "cross_entropy": CrossEntropyLoss(),
    "label_smoothing": CrossEntropyLoss(label_smoothing=0.1),
    "ohem": OhemLoss(),
    "focal": FocalLoss(),
    "dice": DiceLoss(),
    "lovasz": LovaszLoss(),
}


def check_mask(masks, logits):
    """Raises an error if the shape or dtype of a batch of masks is wrong, even while a graph is made.

    Args:
        masks: what a dataset or the caller gave.
        logits: `(batch, height, width, num_classes)`.

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
    if "int" not in dtype:
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
    """The pixel loss of a batch, by default the mean cross-entropy.

    Args:
        labels: `(batch, height, width)`, from `split_mask`.
        valid: the same shape, 1 where a pixel is valid, 0 where it is ignored.
        logits: `(batch, height, width, num_classes)`.
        loss: a `PixelLoss`, or a Keras loss or function of (labels, logits) that returns one value per
            pixel, of which the mean is taken.
        class_weight: `(num_classes,)` weights; the mean is then a weighted one, as in PyTorch.
        sample_weight: factors, `(batch, height, width)`.
        average: `"all"` divides by the number of pixels, ignored ones included, as mmsegmentation
            does; `"counted"` by the number of valid pixels, as PyTorch-Encoding does.

    >>> labels, valid = np.array([[[0, 1]]]), np.array([[[1.0, 0.0]]], "float32")
    >>> logits = np.zeros((1, 1, 2, 2), "float32")
    >>> [round(float(pixel_loss(labels, valid, logits, average=a)), 4) for a in AVERAGES]
    [0.3466, 0.6931]
    """
    loss = LOSSES["cross_entropy"] if loss is None else loss
    if isinstance(loss, PixelLoss):
        return loss(
            labels,
            valid,
            logits,
            class_weight=class_weight,
            sample_weight=sample_weight,
            average=average,
        )
    values, counts = _values(loss, labels, logits), valid
    if class_weight is not None:
        values, counts = (of_label(class_weight, labels) * x for x in (values, counts))
    return mean_over_pixels(values, valid, counts, sample_weight, average)


def _values(loss, labels, logits):
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


@keras.saving.register_keras_serializable("keras_encnet")
@dataclasses.dataclass(frozen=True)
class SumOfLosses(PixelLoss):
    """The sum of `parts`, each of which `pixel_loss` takes as `loss`, times their `weights`."""

    parts: tuple
    weights: tuple

    def call(self, labels, valid, logits, class_weight, sample_weight, average):
        options = {
            "class_weight": class_weight,
            "sample_weight": sample_weight,
            "average": average,
        }
        parts = zip(self.parts, self.weights, strict=True)
        return sum(w * pixel_loss(labels, valid, logits, loss=loss, **options) for loss, w in parts)

    def get_config(self):
        return {
            "parts": [keras.saving.serialize_keras_object(loss) for loss in self.parts],
            "weights": list(self.weights),
        }

    @classmethod
    def from_config(cls, config):
        parts = [keras.saving.deserialize_keras_object(loss) for loss in config["parts"]]
        return cls(tuple(parts), tuple(config["weights"]))


def presence(labels, valid, num_classes):
    """Which classes each image contains: `float32` `(batch, num_classes)` of 0 and 1.

    >>> labels, valid = split_mask(np.array([[[2, 255]]]), 3)
    >>> np.asarray(presence(labels, valid, 3)).tolist()
    [[0.0, 0.0, 1.0]]
    """
    batch = ops.shape(labels)[0]
    # Counting into one bin per image and class avoids a one-hot tensor of every pixel.
    first = num_classes * ops.arange(batch, dtype="int32")
    bins = labels + ops.reshape(first, (-1, 1, 1))
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
    values = ops.binary_crossentropy(target, se_logits, from_logits=True)
    loss = global_sum(ops.sum(values)) / global_sum(ops.sum(ops.ones_like(values)))
    return loss * ops.cast(global_sum(ops.sum(valid)) > 0, "float32")


def pixel_loss_function(loss, num_classes):
    """The argument `loss` of `compile`, as `pixel_loss` takes it.

    Keras's losses read probabilities and, except for the sparse ones, one-hot labels, unless told
    otherwise. A name can be told; an object that reads them means something else.

    Raises:
        ValueError: if it is none of those, or a Keras loss cannot read labels and logits.

    >>> pixel_loss_function({"cross_entropy": 1.0, "dice": 0.5}, 3).weights
    (1.0, 0.5)
    """
    if loss is None or isinstance(loss, PixelLoss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if isinstance(loss, dict):
        return _sum_of_losses(loss, num_classes)
    names = ("crossentropy", "ce", "sparse_categorical_crossentropy", "SparseCategoricalCrossentropy")
    if loss is losses.sparse_categorical_crossentropy or (isinstance(loss, str) and loss in names):
        return losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = _of_keras(loss)
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
            f"{_EXPECTED}. Received: {_name(loss)}, which takes one-hot labels or probabilities"
        )
    if getattr(loss, "reduction", None) in ("sum", "mean_with_sample_weight"):
        raise ValueError(
            "`loss` cannot set how pixels are averaged. Received: reduction="
            f'{loss.reduction!r}. Leave it out, and pass average="all" or "counted" to `compile`.'
        )
    return loss


_EXPECTED = (
    f"`loss` must be one of {[*LOSSES]}, a dict of these and their weights, an object such as "
    "training.FocalLoss(gamma=3.0), or a function of labels (batch, height, width) and logits (batch, "
    "height, width, num_classes) that returns a value for each pixel"
)


def _sum_of_losses(weights, num_classes):
    for loss, weight in weights.items():
        if not (isinstance(weight, Real) and 0 <= weight < math.inf):
            raise ValueError(
                f"The weights of `loss` must be numbers from 0 up. Received: {_name(loss)}: {weight!r}"
            )
    if not weights:
        raise ValueError(f"{_EXPECTED}. Received: {{}}")
    parts = tuple(pixel_loss_function(loss, num_classes) for loss in weights)
    return SumOfLosses(parts, tuple(weights.values()))


def _of_keras(loss):
    """The Keras loss of a name, or what else `keras.losses.get` makes of `loss`."""
    try:
        return losses.get(loss)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_EXPECTED}. Received: {loss!r}") from error


def _is_of_keras(loss):
    """Whether a loss, or a function, is one of Keras's own."""
    kind = type(loss) if isinstance(loss, losses.Loss) else loss
    return getattr(losses, getattr(kind, "__name__", ""), None) is kind and kind is not losses.Loss


def _name(thing):
    return thing if isinstance(thing, str) else getattr(thing, "__name__", type(thing).__name__)


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
