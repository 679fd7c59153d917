"""Weights of the classes, by how rare they are."""

from collections.abc import Sequence

import numpy as np

from keras_encnet.data.conventions import check_integer
from keras_encnet.data.pairs import Pairs


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
