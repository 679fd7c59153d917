"""What `fit`, `evaluate` and `predict` are given: images, data sets, weights of classes."""

from typing import Any

import keras
import numpy as np

from keras_encnet.data.batching import Batches
from keras_encnet.data.pairs import Pairs


def images_of(x: Any) -> Any:
    """The images in what Keras takes as `x`: by name, `{"images": images}`, in a list of one, as they
    are, or a dataset.

    Raises:
        ValueError: for what Keras would take for the inputs of a model with many.
    """
    if isinstance(x, Pairs) or (isinstance(x, (list, tuple)) and _are_pairs(x)):
        raise ValueError(
            "Images must be an array, or batches of images and masks. Received: pairs of image and "
            "mask. Pass data.batches(pairs, size=(height, width), batch_size=...)."
        )
    if isinstance(x, dict):
        if list(x) != ["images"]:
            raise ValueError(f'Inputs by name must be {{"images": images}}. Received: {list(x)}')
        return x["images"]
    if isinstance(x, (list, tuple)):
        if len(x) == 1 and len(np.shape(x[0])) == 4:
            return x[0]
        raise ValueError(
            "Images must be one array (batch, height, width, 3). Received: a list of "
            f"{len(x)}. Pass np.stack(images), and np.stack(masks), if all have the same size, and "
            "otherwise data.batches(list(zip(images, masks)), size=(height, width), batch_size=...)."
        )
    return x


def is_foreign(x: Any) -> bool:
    """Whether `x` is a dataset, or tensors, whose values are not checked beforehand.

    A function of the user's own may give the masks of batches other values."""
    images = images_of(x)
    if isinstance(images, Batches):
        return images.transform is not None
    return not isinstance(images, np.ndarray)


class StartAgain(keras.callbacks.Callback):
    """Moves `data.batches(...)` back to where it was when `fit` was called.

    On two backends Keras takes the first batches, for their shapes, before training begins. And
    `keras.callbacks.BackupAndRestore`, which comes before, begins in a later epoch.

    Args:
        batches: the training data.
        initial_epoch: that of `fit`.
    """

    def __init__(self, batches: Batches, initial_epoch: int):
        super().__init__()
        self.batches, self.step, self.initial_epoch = batches, batches.step, initial_epoch

    def on_train_begin(self, logs=None):
        restored = self.model._initial_epoch or self.initial_epoch
        epochs = restored - self.initial_epoch
        self.batches.start_at(self.step + epochs * self.batches.steps_per_epoch)


def refuse_class_weight(class_weight: Any, method: str) -> None:
    """Raises a `ValueError` if `class_weight` is given to a method of the model."""
    if class_weight is not None:
        raise ValueError(
            f"`{method}(class_weight=...)` cannot weigh the pixels of a mask. Received: "
            f"{class_weight!r}. Pass it to the model: `model.compile(class_weight=...)`."
        )


def weights_of_classes(weights: Any, num_classes: int) -> np.ndarray | None:
    """The argument `class_weight` of `compile` as an array, `float32` `(num_classes,)`.

    Raises:
        ValueError: if there is not one number from 0 up for each class, or all are 0.

    >>> weights_of_classes({1: 2}, 3).tolist()
    [1.0, 2.0, 1.0]
    """
    if weights is None:
        return None
    if isinstance(weights, dict):
        unknown = sorted(set(weights) - set(range(num_classes)), key=str)
        if unknown:
            raise ValueError(
                f"The keys of `class_weight` must be classes, 0 to {num_classes - 1}. "
                f"Received: {unknown}"
            )
        weights = [weights.get(i, 1.0) for i in range(num_classes)]
    if np.shape(weights) != (num_classes,):
        raise ValueError(
            f"`class_weight` must hold {num_classes} numbers, one for each class. Received: {weights!r}"
        )
    weights = np.asarray(weights, "float32")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(
            "`class_weight` must hold numbers from 0 up, not all of them 0. Received: "
            f"{weights.tolist()}"
        )
    return weights


def _are_pairs(x):
    return all(isinstance(item, (list, tuple)) and len(item) == 2 for item in x) and len(x) > 0
