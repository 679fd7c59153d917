"""The result of segmenting an image."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from keras_encnet.data.annotations.rle import kaggle_rle
from keras_encnet.data.conventions import class_palette
from keras_encnet.files import replacing
from keras_encnet.inference import pictures

NOTEBOOK_SIDE = 1024  # largest side of the picture shown in a notebook, in pixels


class Segmentation:
    """The class of each pixel of an image; a notebook shows it as an overlay.

    Args:
        image: the image, `uint8` RGB array `(height, width, 3)`.
        label_map: integers `(height, width)`, indices of `labels`.
        labels: names of the classes.
        palette: their colours, RGB `(num_classes, 3)`; default colours if `None`.
        presence: `(num_classes,)`, the SE head's probability that each class is in the scene, or
            `None`; see `present`.
        confidence: `(height, width)`, the probability of each pixel's class, or `None`. What it means
            in each protocol, `inference.segment` says.
        entropy: `(height, width)`, the entropy of each pixel's probabilities in nats, or `None`: 0
            where one class is certain, `log(num_classes)` where all are equally likely.

    Attributes:
        image, label_map: as given.
        labels: names of the classes, a tuple.
        palette: `uint8` `(num_classes, 3)`.
        presence: `float32` `(num_classes,)`, or `None`.
        confidence, entropy: `float32` `(height, width)`, or `None`.

    Raises:
        ValueError: if an array has another shape or dtype, or values that are out of range; if image,
            label map, confidence and entropy differ in size; or if palette or presence do not fit
            the labels.

    >>> import numpy as np
    >>> label_map = np.zeros((40, 60), "uint8")
    >>> label_map[:10] = 1
    >>> result = Segmentation(np.zeros((40, 60, 3), "uint8"), label_map, ["road", "sky", "car"])
    >>> result
    <Segmentation 40×60, 3 classes: road 75 %, sky 25 %>
    >>> result.areas()
    {'road': 0.75, 'sky': 0.25}
    """

    def __init__(
        self,
        image: np.ndarray,
        label_map: np.ndarray,
        labels: Sequence[str],
        palette: ArrayLike | None = None,
        presence: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
        entropy: ArrayLike | None = None,
    ):
        if image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                "`image` must be uint8 RGB (height, width, 3). "
                f"Received: {image.dtype} of shape {image.shape}"
            )
        if image.shape[:2] != label_map.shape:
            raise ValueError(
                "`image` and `label_map` must have the same (height, width). "
                f"Received: {image.shape[:2]} and {label_map.shape}"
            )
        self.image = image
        self.label_map = label_map
        self.labels = tuple(labels)
        count = len(self.labels)
        if label_map.dtype.kind not in "iu" or not 0 <= label_map.min() <= label_map.max() < count:
            raise ValueError(
                f"`label_map` must hold integers from 0 to {count - 1}, indices of `labels`. "
                f"Received: {label_map.dtype} from {label_map.min()} to {label_map.max()}"
            )
        self.palette = class_palette(count, palette)
        self.presence = None if presence is None else np.asarray(presence, "float32")
        if presence is not None and self.presence.shape != (count,):
            raise ValueError(
                f"`presence` must have shape ({count},), a probability for each label. "
                f"Received shape: {self.presence.shape}"
            )
        self.confidence = _of_pixels("confidence", confidence, label_map.shape)
        self.entropy = _of_pixels("entropy", entropy, label_map.shape)

    def areas(self) -> dict[str, float]:
        """The fraction of the image that each class covers, `{label: fraction}`, largest first.

        Classes that do not occur are left out, and those with the same name are added up."""
        pixels = self._totals()
        return _largest_first({name: count / self.label_map.size for name, count in pixels.items()})

    def confidences(self) -> dict[str, float]:
        """How sure the classes are, `{label: mean confidence of its pixels}`, surest first.

        Classes that do not occur are left out, and those with the same name are taken together.

        Raises:
            ValueError: if there is no confidence.

        >>> image, label_map = np.zeros((1, 4, 3), "uint8"), np.array([[0, 0, 1, 1]])
        >>> sure = [[1, 0.5, 0.5, 0.25]]
        >>> Segmentation(image, label_map, ["road", "sky"], confidence=sure).confidences()
        {'road': 0.75, 'sky': 0.375}
        """
        pixels, sums = self._totals(), self._totals(self._needed_confidence("confidences"))
        return _largest_first({name: sums[name] / count for name, count in pixels.items()})

    def present(self, threshold: float = 0.5) -> dict[str, float]:
        """The classes that are in the scene, `{label: probability}`, most likely first.

        The probability is that of the SE head, which sees each window as one scene, and the mean over
        windows and scales; after little training it is near 1 for every class. `areas` has the classes
        that the pixels were given.

        Args:
            threshold: the least probability, from 0 (all classes) to 1.

        Raises:
            ValueError: if `threshold` is outside [0, 1], or the model has no SE head.

        >>> image, label_map = np.zeros((40, 60, 3), "uint8"), np.zeros((40, 60), "uint8")
        >>> result = Segmentation(image, label_map, ["road", "sky", "car"], presence=[0.5, 0.75, 0.25])
        >>> result.present()
        {'sky': 0.75, 'road': 0.5}
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must be a number from 0 to 1. Received: {threshold}")
        if self.presence is None:
            raise ValueError(
                "`present` needs the presence of classes, from a model with an SE head. "
                "Received: presence=None. The classes of the label map are in `areas()`."
            )
        found = {}
        for i in np.argsort(-self.presence, kind="stable"):
            if self.presence[i] >= threshold:
                found.setdefault(self.labels[i], float(self.presence[i]))
        return found

    def overlay(self, alpha: float = 0.5, legend: bool = True, confidence: bool = False) -> Image.Image:
        """The image blended with the colours of its classes, as an RGB PIL image.

        Args:
            alpha: weight of the colours, 0 (the image alone) to 1 (the colours alone).
            legend: whether to add the names and areas of the classes that occur, below the image.
            confidence: whether the colours fade where the class is uncertain.

        Raises:
            ValueError: if `alpha` is outside [0, 1], or `confidence` is asked for and there is none.
        """
        return pictures.overlay(
            self.image,
            self.label_map,
            self.labels,
            self.palette,
            alpha=alpha,
            legend=legend,
            confidence=self._needed_confidence("overlay(confidence=True)") if confidence else None,
        )

    def to_rle(self) -> dict[str, str]:
        """The pixels of each class in Kaggle's run-length encoding, `{label: "start length …"}`.

        Starts count pixels from 1, column after column. Classes that do not occur are left out
        (`.get(label, "")` gives the empty mask that a submission may need), and those with the same
        name are one mask.

        >>> image, label_map = np.zeros((2, 3, 3), "uint8"), np.array([[0, 1, 1], [0, 0, 1]])
        >>> Segmentation(image, label_map, ["road", "sky"]).to_rle()
        {'road': '1 2 4 1', 'sky': '3 1 5 2'}
        """
        classes = {}
        for i in np.unique(self.label_map):
            classes.setdefault(self.labels[i], []).append(i)
        return {name: kaggle_rle(np.isin(self.label_map, indices)) for name, indices in classes.items()}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the label map as a PNG file with the classes' colours as its palette.

        A palette holds 256 colours: with more classes the file is 16-bit grey. An error leaves no
        incomplete file.

        Raises:
            ValueError: if `path` does not end in `.png`.
            OSError: if the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(
                "`path` must end in .png: other formats lose classes or colours. "
                f"Received: {str(path)!r}. To save a picture, use overlay().save(...)."
            )
        if len(self.labels) <= 256:
            picture = Image.fromarray(self.label_map.astype("uint8"))
            # With a full palette Pillow writes eight bits per pixel; not every tool reads fewer.
            picture.putpalette(self.palette.tobytes().ljust(768, b"\0"))
        else:
            picture = Image.fromarray(self.label_map.astype("uint16"))
        with replacing(path) as unfinished:
            picture.save(unfinished, format="PNG")

    def _needed_confidence(self, wanted):
        if self.confidence is None:
            raise ValueError(
                f"`{wanted}` needs the confidence of each pixel. Received: confidence=None. Pass "
                "`confidence=True` to `segment`."
            )
        return self.confidence

    def _totals(self, values=None):
        """The number of pixels of each class that occurs, or the sum of their `values`, by name."""
        classes, count = self.label_map.reshape(-1), len(self.labels)
        occurs = np.bincount(classes, minlength=count)
        sums = occurs if values is None else np.bincount(classes, values.reshape(-1), count)
        totals = {}
        for i in np.flatnonzero(occurs):
            totals[self.labels[i]] = totals.get(self.labels[i], 0) + sums[i]
        return totals

    def _repr_png_(self):
        step = -(-max(self.label_map.shape) // NOTEBOOK_SIDE)
        small = self.label_map[::step, ::step]
        image = Image.fromarray(self.image).resize(small.shape[::-1], Image.Resampling.BOX)
        picture = pictures.overlay(np.asarray(image), small, self.labels, self.palette)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return buffer.getvalue()

    def __repr__(self):
        height, width = self.label_map.shape
        areas = [f"{label} {pictures.percent(area)}" for label, area in self.areas().items()]
        more = ", …" if len(areas) > 5 else ""
        found = ", ".join(areas[:5])
        return f"<Segmentation {height}×{width}, {len(self.labels)} classes: {found}{more}>"


def _of_pixels(name, values, shape):
    """Values of pixels as float32, after a check of their shape; `None` stays."""
    if values is None:
        return None
    values = np.asarray(values, "float32")
    if values.shape != shape:
        raise ValueError(
            f"`{name}` must have the (height, width) of `label_map`, {shape}. "
            f"Received shape: {values.shape}"
        )
    return values


def _largest_first(values):
    return {name: float(values[name]) for name in sorted(values, key=values.get, reverse=True)}
