"""What segmenting an image gives."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from keras_encnet.data.conventions import class_palette
from keras_encnet.files import replacing
from keras_encnet.inference import pictures

NOTEBOOK_SIDE = 1024


class Segmentation:
    """The classes of an image's pixels; shows itself, coloured in, in a notebook.

    Args:
        image: the image, `uint8` RGB array `(height, width, 3)`.
        label_map: integers `(height, width)`, indices of `labels`.
        labels: names of the classes.
        palette: their colours, `(num_classes, 3)`, RGB; `default_palette`'s if `None`.
        presence: `(num_classes,)`, the SE head's probability that each class is in the scene, or
            `None`.

    Attributes:
        image, label_map: as given.
        labels: a tuple of names.
        palette: `uint8` `(num_classes, 3)`.
        presence: `float32` `(num_classes,)`, or `None`.

    Raises:
        ValueError: image and label map differ in size, or the palette is not one of the labels.

    >>> import numpy as np
    >>> label_map = np.zeros((40, 60), "uint8")
    >>> label_map[:10] = 1
    >>> result = Segmentation(np.zeros((40, 60, 3), "uint8"), label_map, ["road", "sky", "car"])
    >>> result
    <Segmentation 40×60, 3 classes: road 75 %, sky 25 %>
    >>> result.areas()
    {'road': 0.75, 'sky': 0.25}
    """

    def __init__(self, image, label_map, labels, palette=None, presence=None):
        if image.shape[:2] != label_map.shape:
            raise ValueError(
                "`image` and `label_map` must have the same (height, width). "
                f"Received: {image.shape[:2]} and {label_map.shape}"
            )
        self.image = image
        self.label_map = label_map
        self.labels = tuple(labels)
        self.palette = class_palette(len(self.labels), palette)
        if self.palette.shape != (len(self.labels), 3):
            raise ValueError(
                f"`palette` must have shape ({len(self.labels)}, 3), an RGB colour for each label. "
                f"Received shape: {self.palette.shape}"
            )
        self.presence = None if presence is None else np.asarray(presence, "float32")

    def areas(self):
        """The fraction of the image that each class covers, `{label: fraction}`.

        Largest first; classes that do not occur are left out."""
        counts = np.bincount(self.label_map.reshape(-1), minlength=len(self.labels))
        areas = {}
        for i in np.flatnonzero(counts):  # two classes may have one name
            areas[self.labels[i]] = areas.get(self.labels[i], 0) + counts[i] / counts.sum()
        return {name: float(areas[name]) for name in sorted(areas, key=areas.get, reverse=True)}

    def overlay(self, alpha=0.5, legend=True):
        """The image with its classes coloured in, as an RGB PIL image.

        Args:
            alpha: weight of the colours, 0 (the image alone) to 1 (the colours alone).
            legend: whether to add, below, the names and areas of the classes that occur.
        """
        return pictures.overlay(
            self.image, self.label_map, self.labels, self.palette, alpha=alpha, legend=legend
        )

    def save(self, path):
        """Writes the label map as a PNG file whose pixels are labels and whose palette is the
        classes' colours (beyond 256 classes, which a palette cannot hold: as 16-bit grey).

        The file is written beside and then renamed: it is there whole or not at all.

        Raises:
            ValueError: `path` does not end in `.png`.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(
                f"Cannot save labels as {str(path)!r}: expected a name that ends in .png, as other "
                "formats lose labels or colours. For a picture use overlay().save(...)."
            )
        if len(self.labels) <= 256:
            picture = Image.fromarray(self.label_map.astype("uint8"))
            # A full palette, or Pillow packs a few classes into two or four bits a pixel, which not
            # every tool reads.
            picture.putpalette(self.palette.tobytes().ljust(768, b"\0"))
        else:
            picture = Image.fromarray(self.label_map.astype("uint16"))
        with replacing(path) as unfinished:
            picture.save(unfinished, format="PNG")

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
