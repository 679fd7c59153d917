"""The pixel losses: objects that make one number of the masks and logits of a batch."""

import dataclasses
import math
from numbers import Real

import keras
from keras import ops

from keras_encnet.data.conventions import check_integer
from keras_encnet.layers.replicas import global_sum


@dataclasses.dataclass(frozen=True)
class PixelLoss:
    """What `compile(loss=...)` takes besides functions and Keras's losses.

    Called with `labels` int32 `(batch, height, width)`, 0 where a pixel is ignored; `valid`, float32 of
    the same shape, 1 where a pixel is valid, otherwise 0; `logits` float32 `(batch, height, width,
    num_classes)`; and as keywords `class_weight` `(num_classes,)`, `sample_weight`, factors of the
    shape of `labels`, and `average`, "all" or "counted". Returns a scalar: 0 without valid pixels.
    """

    def __call__(self, labels, valid, logits, *, class_weight=None, sample_weight=None, average="all"):
        if class_weight is not None:
            class_weight = ops.convert_to_tensor(class_weight, "float32")
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, "float32")
        labels, valid, logits = (ops.convert_to_tensor(x) for x in (labels, valid, logits))
        return self.call(labels, valid, logits, class_weight, sample_weight, average)

    def call(self, labels, valid, logits, class_weight, sample_weight, average):
        """What `__call__` returns, of tensors."""
        raise NotImplementedError

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_encnet")
@dataclasses.dataclass(frozen=True)
class CrossEntropyLoss(PixelLoss):
    """Cross-entropy, a mean over pixels; with `class_weight` a weighted one, as in PyTorch.

    Args:
        label_smoothing: share of the target that is spread evenly over all classes.

    Raises:
        ValueError: if `label_smoothing` is not from 0 to 1.

    >>> keras_encnet.training.CrossEntropyLoss(label_smoothing=0.1)
    CrossEntropyLoss(label_smoothing=0.1)
    """

    label_smoothing: float = 0.0

    def __post_init__(self):
        _check_number("label_smoothing", self.label_smoothing, most=1)

    def call(self, labels, valid, logits, class_weight, sample_weight, average):
        values, counts = _cross_entropy(labels, logits), valid
        if class_weight is not None:
            values, counts = (of_label(class_weight, labels) * x for x in (values, counts))
        if self.label_smoothing:
            every = ops.log_softmax(logits)
            if class_weight is not None:
                every = every * class_weight
            share = self.label_smoothing
            values = (1 - share) * values - share * ops.mean(every, axis=-1)
        return mean_over_pixels(values, valid, counts, sample_weight, average)


@keras.saving.register_keras_serializable("keras_encnet")
@dataclasses.dataclass(frozen=True)
class FocalLoss(PixelLoss):
    """The focal loss (Lin et al., 2017): each class against the rest, by the sigmoid.

    A mean over pixels and classes, in which `class_weight` multiplies the values of a class, as in
    mmsegmentation; segmentation_models.pytorch differs in the default of `alpha` alone. Since sigmoids
    are trained, the softmax of the logits is no longer a probability.

    Args:
        gamma: how strongly pixels that are right already lose weight; 0 is no such weight.
        alpha: weight of the class of a pixel; the other classes have `1 - alpha`. `None`: 1 for all.

    Raises:
        ValueError: if `gamma` is below 0, or `alpha` not from 0 to 1.

    >>> keras_encnet.training.FocalLoss(gamma=3.0)
    FocalLoss(gamma=3.0, alpha=0.5)
    """

    gamma: float = 2.0
    alpha: float | None = 0.5

    def __post_init__(self):
        _check_number("gamma", self.gamma)
        if self.alpha is not None:
            _check_number("alpha", self.alpha, most=1)

    def call(self, labels, valid, logits, class_weight, sample_weight, average):
        target = ops.one_hot(labels, logits.shape[-1])
        wrong = logits * (1 - 2 * target)  # its sigmoid is the probability of the wrong answer
        values = ops.softplus(wrong) * ops.exp(self.gamma * ops.log_sigmoid(wrong))
        if self.alpha is not None:
            values = values * (self.alpha * target + (1 - self.alpha) * (1 - target))
        if class_weight is not None:
            values = values * class_weight
        return mean_over_pixels(ops.mean(values, axis=-1), valid, valid, sample_weight, average)


@keras.saving.register_keras_serializable("keras_encnet")
@dataclasses.dataclass(frozen=True)
class OhemLoss(PixelLoss):
    """Cross-entropy of the hard pixels (Shrivastava et al., 2016), mmsegmentation's `OhemCrossEntropy`.

    Hard are the pixels whose label has a probability below `threshold`, or, if these are fewer, the
    `min_kept` with the lowest ones. The loss is the mean over them, whatever `average` is; weights of
    classes and samples multiply it. With several replicas each ranks its own part of the batch.

    Args:
        threshold: probability, from 0 to 1.
        min_kept: number of pixels of a batch that are kept at least.

    Raises:
        ValueError: if an argument is out of its range.

    >>> keras_encnet.training.OhemLoss(min_kept=5000)
    OhemLoss(threshold=0.7, min_kept=5000)
    """

    threshold: float = 0.7
    min_kept: int = 100_000

    def __post_init__(self):
        _check_number("threshold", self.threshold, most=1)
        check_integer("min_kept", self.min_kept)

    def call(self, labels, valid, logits, class_weight, sample_weight, average):
        values = _cross_entropy(labels, logits)
        probability = ops.stop_gradient(ops.exp(-values))
        ranked = ops.sort(ops.reshape(ops.where(valid > 0, probability, 2.0), (-1,)))  # ignored last
        last = ops.sum(ops.cast(valid, "int32")) - 1
        hardest = ops.take(ranked, ops.maximum(ops.minimum(last, self.min_kept), 0))
        kept = valid * ops.cast(probability < ops.maximum(hardest, self.threshold), "float32")
        if class_weight is not None:
            values = values * of_label(class_weight, labels)
        return mean_over_pixels(values, kept, kept, sample_weight, "counted")


@keras.saving.register_keras_serializable("keras_encnet")
@dataclasses.dataclass(frozen=True)
class DiceLoss(PixelLoss):
    """1 − Dice of each class in the batch, from the softmax; segmentation_models.pytorch's `DiceLoss`.

    A mean over all classes, with `class_weight` a weighted one, in which classes that the masks lack
    count as 0. There is no mean over pixels: `average` has no effect, and `sample_weight` says how much
    a pixel adds to the areas of which a Dice is made. (mmsegmentation's pools classes, which is little
    else than the mean probability.)

    >>> keras_encnet.training.DiceLoss()
    DiceLoss()
    """

    def call(self, labels, valid, logits, class_weight, sample_weight, average):
        weight = _pixel_weight(valid, sample_weight)[..., None]
        predicted = ops.softmax(logits) * weight
        target = ops.one_hot(labels, logits.shape[-1])
        shared, predicted, actual = (
            global_sum(ops.sum(x, axis=(0, 1, 2)))
            for x in (predicted * target, predicted, target * weight)
        )
        dice = 2 * shared / ops.maximum(predicted + actual, 1e-7)
        losses = ops.where(actual > 0, 1 - dice, 0)
        if class_weight is None:
            return ops.mean(losses)
        return ops.sum(losses * class_weight) / ops.sum(class_weight)


@keras.saving.register_keras_serializable("keras_encnet")
@dataclasses.dataclass(frozen=True)
class LovaszLoss(PixelLoss):
    """Lovász-softmax (Berman et al., 2018): a surrogate of 1 − IoU of each class in the batch.

    A mean over the classes that the masks have, in which `class_weight` multiplies, as in
    mmsegmentation. There is no mean over pixels: `average` has no effect, and `sample_weight` says how
    much a pixel adds to the areas of which an IoU is made. It sorts the pixels for each class, which
    takes several times the memory of the logits. With several replicas each sorts its own part of the
    batch, and the mean over replicas is taken.

    >>> keras_encnet.training.LovaszLoss()
    LovaszLoss()
    """

    def call(self, labels, valid, logits, class_weight, sample_weight, average):
        num_classes = logits.shape[-1]
        predicted = ops.transpose(ops.reshape(ops.softmax(logits), (-1, num_classes)))
        target = ops.transpose(ops.one_hot(ops.reshape(labels, (-1,)), num_classes))
        weight = ops.reshape(_pixel_weight(valid, sample_weight), (-1,))
        errors = ops.abs(target - predicted)  # (num_classes, pixels)
        order = ops.argsort(-errors, axis=-1)
        errors = ops.take_along_axis(errors, order, axis=-1)
        inside = ops.take_along_axis(target * weight, order, axis=-1)
        outside = ops.take(weight, order) - inside
        area = ops.sum(inside, axis=-1, keepdims=True)
        # What 1 − IoU grows by if this pixel is wrong as well as all before it. Its differences, which
        # is how others compute this, cancel in float32. A pixel without weight adds nothing.
        union = ops.where(area > 0, area + ops.cumsum(outside, axis=-1), 1)
        before = ops.where(area > 0, union - outside, 1)
        left = area - ops.cumsum(inside, axis=-1) + inside
        losses = ops.sum(errors * (inside + outside * left / before) / union, axis=-1)
        if class_weight is not None:
            losses = losses * class_weight
        present = ops.sum(ops.cast(area > 0, "float32"))
        return ops.sum(losses) / ops.maximum(present, 1)


def _cross_entropy(labels, logits):
    return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def of_label(class_weight, labels):
    """The weight of each pixel's class, of the shape of `labels`."""
    return ops.take(ops.convert_to_tensor(class_weight, "float32"), labels)


def mean_over_pixels(values, valid, counts, sample_weight, average):
    """Σ `values` · `valid` · `sample_weight` / Σ `counts`, to which `"all"` adds the ignored pixels.

    All of them are `(batch, height, width)`."""
    total = ops.sum(counts)
    if average == "all":
        ignored = 1 - valid
        if sample_weight is not None:
            # Ignored pixels without weight are padding, and do not count.
            ignored = ignored * ops.cast(sample_weight > 0, "float32")
        total = total + ops.sum(ignored)
    total = global_sum(total)
    # Without a valid pixel the sum below is 0, and so is the loss.
    summed = ops.sum(values * _pixel_weight(valid, sample_weight))
    return global_sum(summed) / ops.where(total > 0, total, 1)


def _pixel_weight(valid, sample_weight):
    return valid if sample_weight is None else valid * sample_weight


def _check_number(name, value, most=math.inf):
    if not (isinstance(value, Real) and 0 <= value <= most and value < math.inf):
        expected = "a number from 0 up" if most == math.inf else f"a number from 0 to {most}"
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")
