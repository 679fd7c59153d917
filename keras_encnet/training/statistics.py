"""What datasets hold whose values cannot be checked before training: counted in the graph."""

import math
import warnings

import keras
from keras import ops

from keras_encnet.data.advice import (
    MaskWarning,
    is_outside,
    listed_classes,
    listed_values,
    outside_error,
    too_few_classes,
)

PIXELS = ("all", "not finite", "below 0", "above 0", "above 1", "above 255")
# Bins of a mask's values, after those of the values from 0 up.
OTHERS = ("ignored", "below", "above")
ENOUGH_FOR_TWO_CLASSES = 4  # batches


class DataStatistics(keras.metrics.Metric):
    """Counts values of images and masks since the last reset, and says what is wrong with them.

    A metric because Keras carries the state of metrics through training steps on every backend; it
    has no result, so that nothing is logged. It holds sums alone, which replicas can add up.

    Args:
        num_classes: number of classes.
        ignore_index: mask value of ignored pixels.
        labels: class names for messages, or `None`.
    """

    def __init__(self, num_classes, ignore_index, labels=None):
        super().__init__(name="data_statistics")
        self.num_classes, self.ignore_index, self.labels = num_classes, ignore_index, labels
        # One value above the classes, and all that 8 bits can hold.
        self.bins = max(num_classes + 1, 256)
        self.pixels = self.add_variable((len(PIXELS),), "zeros", "float32", name="pixels")
        self.values = self.add_variable((self.bins + len(OTHERS),), "zeros", "float32", name="values")

    def update_state(self, images, masks) -> None:
        """Adds a batch: images, or `None`, and masks of any shape."""
        # All values of 8 bits are valid.
        if images is not None and _dtype(images) not in ("uint8", "bool"):
            self.pixels.assign_add(_pixel_counts(images))
        self.values.assign_add(self._value_counts(masks))

    def result(self):
        return {}

    def invalid_pixels(self) -> dict:
        """{mask value: pixels} of values that are neither a class nor `ignore_index`."""
        invalid = {
            str(value): count
            for value, count in self._totals().items()
            if is_outside(value, self.num_classes, self.ignore_index)
        }
        below, above = (int(count) for count in _numpy(self.values)[-2:])
        invalid |= {"below 0": below} if below else {}
        invalid |= {f"above {self.bins - 1}": above} if above else {}
        return invalid

    def _totals(self):
        """{mask value: pixels} of ignored pixels and of the values that are counted one by one."""
        counts = _numpy(self.values)
        values = [*range(self.bins), self.ignore_index]
        return {
            value: int(count)
            for value, count in zip(values, counts[: len(values)], strict=True)
            if count
        }

    def _value_counts(self, masks):
        values = ops.cast(masks, "int32")
        ignored, below, above = range(self.bins, self.bins + len(OTHERS))
        bins = ops.where(values < 0, below, ops.where(values >= self.bins, above, values))
        bins = ops.reshape(ops.where(values == self.ignore_index, ignored, bins), (-1,))
        counts = ops.segment_sum(ops.ones_like(bins), bins, num_segments=self.bins + len(OTHERS))
        return ops.cast(counts, "float32")

    def image_problems(self, where):
        """{kind: message} of what is wrong with the images of `where`, such as "the training data"."""
        counts = dict(zip(PIXELS, _numpy(self.pixels), strict=True))
        if not counts["all"]:
            return {}
        must = (
            "Images must have values in [0, 255], because the model normalizes them itself. Received: "
        )
        if counts["not finite"]:
            return {
                "not finite": "Images must have finite values in [0, 255]. Received: "
                f"{counts['not finite']:.0f} values that are NaN or infinity in {where}."
            }
        if counts["below 0"] or counts["above 255"]:
            below, above = (100 * counts[kind] / counts["all"] for kind in ("below 0", "above 255"))
            return {
                "out of range": f"{must}{below:.3g} % of the values are below 0 and {above:.3g} % "
                f"above 255 in {where}. Pass the original values of 8-bit files, or scale them: divide "
                "16-bit values by 257, for instance."
            }
        if counts["above 0"] and not counts["above 1"]:
            return {
                "scaled": f"{must}floats up to 1, which look scaled to [0, 1], in {where}. Pass the "
                "uint8 images, or multiply by 255."
            }
        return {}

    def mask_problems(self, where, *, complete):
        """{kind: warning} of what is wrong with the masks of `where`.

        `complete` says whether every class should have been seen."""
        totals, invalid = self._totals(), self.invalid_pixels()
        if not (totals or invalid):
            return {}
        problems = {}
        if invalid:
            problems["invalid"] = self._invalid_warning(totals, invalid, where)
        elif few := too_few_classes(totals, self.num_classes, self.ignore_index, f", in {where}"):
            kind, *message = few
            problems[kind] = MaskWarning(*message)
        absent = [value for value in range(self.num_classes) if value not in totals]
        # Without any class, or with one, it is said already.
        if complete and 0 < len(absent) < self.num_classes and "one class" not in problems:
            named = self.labels if self.labels and len(self.labels) == self.num_classes else None
            problems["absent"] = MaskWarning(
                f"In its first epoch, no mask of {where} had "
                f"{listed_classes(absent, named)}. The model cannot learn a class without examples. "
                "Check the number of classes and the order of their names."
            )
        return problems

    def _invalid_warning(self, totals, invalid, where):
        counted_as = "They are ignored."
        if all(value.isdigit() for value in invalid):
            error = outside_error(totals, self.num_classes, self.ignore_index, f" in {where}")
            return MaskWarning(f"{error.found} {counted_as}", error.readings)
        return MaskWarning(  # some are not known one by one
            f"Mask values must be one of the {self.num_classes} classes (0 to {self.num_classes - 1}) "
            f"or {self.ignore_index} (ignored). Received: {listed_values(invalid)} in {where}. "
            f"{counted_as}"
        )


class Watch(keras.callbacks.Callback):
    """Warns of what `DataStatistics` finds: after the batches 1, 2, 4, 8, … of the first pass over the
    data, and after each pass.

    Each kind of problem is warned of once in a call of `fit` or `evaluate`.

    Args:
        training: whether training data are watched.
        evaluation: what to call the data of `evaluate`, or `None` if they are not watched.
        complete: whether an epoch has all training data.
    """

    def __init__(self, *, training: bool = False, evaluation: str | None = None, complete: bool = True):
        super().__init__()
        self.training, self.evaluation = training, evaluation
        self.complete = complete
        self.warned = set()
        self.next_look = {"training": 1, evaluation: 1}
        self.masks_are_counted = False  # of the training data, and not yet looked at

    def on_epoch_begin(self, epoch, logs=None):
        self.masks_are_counted = self.training

    def on_train_batch_end(self, batch, logs=None):
        if self.training:
            self._look_at_first_batches("training", batch + 1)

    def on_test_begin(self, logs=None):
        # Keras resets all metrics before it evaluates.
        self._look_at_training_data()

    def on_test_batch_end(self, batch, logs=None):
        if self.evaluation:
            self._look_at_first_batches(self.evaluation, batch + 1)

    def on_test_end(self, logs=None):
        if self.evaluation:
            self._look(self.evaluation)

    def on_epoch_end(self, epoch, logs=None):
        self._look_at_training_data()

    def _look_at_training_data(self):
        if self.training and self.masks_are_counted:
            self._look("training", complete=self.complete)
            self.masks_are_counted = self.complete = False  # a class is missed once

    def _look_at_first_batches(self, data, batches):
        if batches >= self.next_look[data]:
            self.next_look[data] = 2 * batches
            self._look(data, batches=batches)

    def _look(self, data, *, batches=None, complete=False):
        """Warns of what is wrong with so many batches of some data; by default, of a pass over it."""
        where = f"the {data} data"
        if batches is None:
            self.next_look[data] = math.inf
        else:
            where = f"the first {f'{batches} batches' if batches > 1 else 'batch'} of {where}"
        # On JAX, `self.model` brings the values up to date, which are elsewhere during an epoch.
        statistics = next(m for m in self.model.metrics if isinstance(m, DataStatistics))
        problems = statistics.image_problems(where)
        for kind, message in statistics.mask_problems(where, complete=complete).items():
            # A few images may well have one class.
            if kind == "invalid" or batches is None or batches >= ENOUGH_FOR_TWO_CLASSES:
                problems[kind] = message
        for kind, message in problems.items():
            if kind not in self.warned:
                self.warned.add(kind)
                warnings.warn(message, stacklevel=2)


def _pixel_counts(images):
    """How many values belong to each of the `PIXELS`."""
    is_float = "float" in _dtype(images)
    images = ops.cast(images, "float32")
    finite = ops.isfinite(images)
    kinds = {
        "all": ops.ones_like(finite),
        "not finite": ops.logical_not(finite),
        "below 0": images < 0,
        "above 0": images > 0,
        # Integers up to 1 are not scaled.
        "above 1": images > (1 if is_float else 0),
        "above 255": images > 255,
    }
    return ops.stack([ops.sum(ops.cast(kinds[kind], "float32")) for kind in PIXELS])


def _dtype(images):
    return keras.backend.standardize_dtype(images.dtype)


def _numpy(variable):
    return keras.ops.convert_to_numpy(variable.value)
