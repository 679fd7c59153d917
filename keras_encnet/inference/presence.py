"""How well a model knows which classes are in a scene, whatever it does with the pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

THRESHOLD = 0.5  # presence from which on a class counts as named
STEPS = 10  # ranges of probability in which its meaning is looked at


class PresenceScores(NamedTuple):
    """Presence, as the SE head gives it, compared with the classes that are in the truth.

    - `images`: number of images.
    - `occurs`: images that have the class, `int64` `(num_classes,)`.
    - `average_precision`: area below the class's curve of precision over recall, `float64`
      `(num_classes,)`; NaN for a class that no image has.
    - `precision`, `recall`: of the class at a presence of 0.5, `float64` `(num_classes,)`; NaN where
      no image was named, or none has the class.
    - `all_precision`, `all_recall`: the same over all classes and images together.
    - `cases`, `there`: pairs of image and class by tenths of presence, and how many of them are
      there, `int64` `(10,)`.
    """

    images: int
    occurs: np.ndarray
    average_precision: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    all_precision: float
    all_recall: float
    cases: np.ndarray
    there: np.ndarray

    @property
    def mean_average_precision(self) -> float:
        """The mean of `average_precision` over the classes that occur."""
        return _mean(self.average_precision)


def presence_scores(presence: Sequence, present: Sequence) -> PresenceScores:
    """Scores the presence of classes.

    Args:
        presence: probabilities `(images, num_classes)`, in [0, 1].
        present: whether an image has a class, booleans `(images, num_classes)`.

    Source of `average_precision`: the sum over recalls, without interpolation, as in scikit-learn.

    >>> scores = presence_scores([[0.9], [0.6], [0.2]], [[True], [False], [True]])
    >>> scores.average_precision.round(3).tolist(), scores.precision.tolist(), scores.recall.tolist()
    ([0.833], [0.5], [0.5])
    """
    presence, present = np.asarray(presence, "float64"), np.asarray(present, bool)
    named = presence >= THRESHOLD
    hits = (named & present).sum(0)
    step = np.minimum((presence * STEPS).astype(int), STEPS - 1)
    return PresenceScores(
        images=len(present),
        occurs=present.sum(0),
        average_precision=np.array(
            [average_precision(*columns) for columns in zip(presence.T, present.T, strict=True)]
        ),
        precision=share(hits, named.sum(0)),
        recall=share(hits, present.sum(0)),
        all_precision=float(share(hits.sum(), named.sum())),
        all_recall=float(share(hits.sum(), present.sum())),
        cases=np.bincount(step.reshape(-1), minlength=STEPS),
        there=np.bincount(step[present], minlength=STEPS),
    )


def average_precision(presence: np.ndarray, present: np.ndarray) -> float:
    """The average precision of one class: probabilities and booleans, both `(images,)`; NaN if no
    image has the class.

    >>> average_precision(np.array([0.9, 0.6, 0.2]), np.array([True, True, False]))
    1.0
    """
    if not present.any():
        return float("nan")
    order = np.argsort(-presence, kind="stable")
    presence, present = presence[order], present[order]
    # Images of the same presence are above a threshold together.
    last = np.append(presence[1:] != presence[:-1], True)
    hits = np.cumsum(present)[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((np.diff(hits, prepend=0) / present.sum() * precision).sum())


def share(part, total) -> np.ndarray:
    """`part / total`, NaN where `total` is 0.

    >>> share(np.array([1, 0]), np.array([2, 0])).tolist()
    [0.5, nan]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part, "float64") / np.asarray(total, "float64")


def _mean(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
