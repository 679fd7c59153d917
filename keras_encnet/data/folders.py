"""Image and mask files in two directories or globs, as pairs."""

import glob
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.checks import check_sizes
from keras_encnet.data.images import image_size, read_image, read_mask
from keras_encnet.data.pairs import Pairs

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}


def folder(
    images: str | os.PathLike,
    masks: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    label_map: Mapping[int | tuple[int, int, int], int] | None = None,
    palette: ArrayLike | None = None,
) -> Pairs:
    """Pairs of image and mask files with the same name, in natural order (`2.png` before `10.png`).

    The name is the file name without its ending, or for a glob the part that `*` stands for:
    `"*_rgb.jpg"` and `"*_mask.png"` match. Files are read on demand.

    Args:
        images: a directory of image files, or a glob.
        masks: the same for masks. Palette and greyscale files contain label values.
        labels: class names in label order.
        label_map: dict that maps mask values to labels, all at once: `{255: 1}` turns 0/255 masks
            into 0/1, `{0: 255, 1: 0, 2: 1}` shifts values down by one and ignores 0. With `palette`,
            keys may be colours too: `{(0, 0, 0): 255}`.
        palette: RGB colours of the classes, `(num_classes, 3)`, to read colour masks.

    Returns:
        `Pairs`: `pairs[i]` is an image `uint8` `(height, width, 3)` and its mask, integers
        `(height, width)`.

    Raises:
        FileNotFoundError: if a directory does not exist, or a directory or glob has no files.
        ValueError: if an image has no mask or a mask no image, or two files have the same name. When
            a pair is read: if a file is truncated or not an image, the image and its mask differ in
            size, or a colour is not in `palette`. The message names the files.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as here:
    ...     for i in range(3):
    ...         Image.new("RGB", (48, 32)).save(f"{here}/{i}.jpg")
    ...         Image.new("L", (48, 32), color=255).save(f"{here}/{i}.png")
    ...     pairs = folder(f"{here}/*.jpg", f"{here}/*.png", label_map={255: 1})
    ...     image, mask = pairs[0]
    >>> image.shape, mask.shape, int(mask.max())
    ((32, 48, 3), (32, 48), 1)
    """
    images, masks = os.fspath(images), os.fspath(masks)
    image_files, mask_files = _files(images, "images"), _files(masks, "masks")
    unpaired = [image_files[name] for name in image_files if name not in mask_files]
    if unpaired:
        raise ValueError(
            f"Every image must have a mask of the same name in {masks!r} (in a glob, the name is the "
            f"part that * stands for). Received: {len(unpaired)} of {len(image_files)} images without "
            f"a mask, {_first_few(unpaired)}. Add the masks or move the images away."
        )
    unpaired = [mask_files[name] for name in mask_files if name not in image_files]
    if unpaired:
        raise ValueError(
            f"Every mask must have an image of the same name in {images!r}. Received: {len(unpaired)} "
            f"of {len(mask_files)} masks without an image, {_first_few(unpaired)}. Add the images or "
            "move the masks away."
        )
    names = sorted(image_files, key=lambda name: _natural_order(image_files[name]))
    return _Files(
        [image_files[name] for name in names],
        [mask_files[name] for name in names],
        labels=labels,
        label_map=label_map,
        palette=palette,
    )


class _Files(Pairs):
    def __init__(self, images, masks, *, labels, label_map, palette):
        super().__init__(masks, labels=labels, palette=palette)
        self._images, self._masks = images, masks
        label_map = dict(label_map or {})
        colours = [key for key in label_map if isinstance(key, tuple)]
        self._colours = palette
        if colours:
            if palette is None:
                raise ValueError(
                    "`label_map` must map integers if there is no `palette`. Received: the colours "
                    f"{colours}. Give `palette`, the (num_classes, 3) RGB colours in label order."
                )
            # These colours are read as labels after the last class, which `label_map` then maps.
            first = len(self.palette)
            self._colours = np.concatenate([self.palette, np.array(colours, "uint8")])
            for i, colour in enumerate(colours):
                label_map[first + i] = label_map.pop(colour)
        self._map_labels = _label_mapping(label_map)

    def read(self, i):
        image, mask = read_image(self._images[i]), self.mask(i)
        check_sizes(image.shape[:2], mask.shape, self.where(i))
        return image, mask

    def mask(self, i):
        return self._map_labels(read_mask(self._masks[i], palette=self._colours))

    def image_size(self, i):
        return image_size(self._images[i])

    def where(self, i):
        return f"{self._masks[i]} (mask of {self._images[i]})"


def _files(source, what):
    """{name: path} of the files in a directory or glob."""
    if os.path.isdir(source):
        paths = [
            entry.path
            for entry in os.scandir(source)
            if entry.is_file()
            and not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in IMAGE_ENDINGS
        ]
        names = [os.path.splitext(os.path.basename(path))[0] for path in paths]
        problem = "a directory without files ending in .jpg, .png, …"
    else:
        paths = [path for path in glob.glob(source, recursive=True) if os.path.isfile(path)]
        names = [_wildcard_part(source, path) for path in paths]
        problem = (
            "a glob that matches no files"
            if glob.has_magic(source)
            else "neither a directory nor a glob"
        )
    if not paths:
        raise FileNotFoundError(
            f"`{what}` must be a directory of image files, or a glob such as 'images/*.jpg'. "
            f"Received: {source!r}, {problem}"
        )
    files = {}
    for name, path in sorted(zip(names, paths, strict=True)):
        if name in files:
            raise ValueError(
                f"The names of {what} must be unique. Received: {name!r} twice, {files[name]} and "
                f"{path}. Narrow the glob, 'images/*.jpg' for instance, or rename one."
            )
        files[name] = path
    return files


def _wildcard_part(pattern, path):
    """The part of `path` that the wildcards of a glob stand for, without the ending.

    It is the file name if there are no wildcards before the ending."""
    pattern, path = (os.path.splitext(p.replace(os.sep, "/"))[0] for p in (pattern, path))
    wildcards = {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "([^/])"}
    regex = "".join(
        wildcards.get(part, f"({part})".replace("[!", "[^")) if place % 2 else re.escape(part)
        for place, part in enumerate(re.split(r"(\*\*/|\*|\?|\[[^]]+\])", pattern))
    )
    match = re.fullmatch(regex, path)
    found = [group.strip("/") for group in match.groups() if group] if match else []
    return "/".join(found) or os.path.basename(path)


def _natural_order(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _first_few(paths, count=3):
    first = sorted(paths, key=_natural_order)[:count]
    listed = ", ".join(map(str, first))
    return listed + (f" and {len(paths) - count} more" if len(paths) > count else "")


def _label_mapping(label_map):
    """The function that applies `label_map` to a mask."""
    if not label_map:
        return lambda mask: mask
    olds, news = zip(*label_map.items(), strict=True)
    if not all(isinstance(value, (int, np.integer)) and value >= 0 for value in olds + news):
        raise ValueError(
            "`label_map` must map integers from 0 up to integers from 0 up, {255: 1} for instance. "
            f"Received: {label_map!r}"
        )
    table = np.arange(max(256, *(old + 1 for old in olds)))
    table[list(olds)] = news
    table = table.astype("uint8" if table[:256].max() <= 255 else "int32")

    def map_labels(mask):
        if mask.dtype == "uint8":
            return table[mask]
        in_table = (mask >= 0) & (mask < len(table))
        return np.where(in_table, table.astype(mask.dtype)[np.where(in_table, mask, 0)], mask)

    return map_labels
