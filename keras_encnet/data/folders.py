"""Images and masks in files: two globs or folders."""

import glob
import itertools
import os
import re

import numpy as np

from keras_encnet.data.checks import check_sizes
from keras_encnet.data.images import image_size, read_image, read_mask
from keras_encnet.data.pairs import Pairs

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}


def folder(images, masks, *, labels=None, label_map=None, palette=None):
    """Pairs of image and mask files, matched by name, in natural order (`2.png` before `10.png`).

    A file's name for matching is its name without the ending, in a glob the part that the `*`s
    stand for: `"*_rgb.jpg"` and `"*_mask.png"` match. Nothing is read before it is asked for.

    Args:
        images: a glob, or a directory whose image files are taken.
        masks: the same for masks, whose files are read as labels whatever their mode.
        labels: names of the classes in label order.
        label_map: dict that renames values in the masks, all at once: `{255: 1}` makes 0/255 masks
            0/1, `{0: 255, 1: 0, 2: 1}` shifts labels down by one with 0 ignored. With `palette`, a
            colour is a key too: `{(0, 0, 0): 255}`.
        palette: RGB colours of the classes, `(num_classes, 3)`: masks in colour are read by it.

    Returns:
        `Pairs`: `pairs[i]` is an image `uint8` `(height, width, 3)` and its mask, integers
        `(height, width)`.

    Raises:
        FileNotFoundError: there is no such directory, or a glob or directory holds no files.
        ValueError: an image has no mask or a mask no image, two files have one name; on reading, a
            file is truncated or not an image, the sizes of an image and its mask differ, or a
            colour is not in `palette`. The files are named.

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
    alone = [image_files[name] for name in image_files if name not in mask_files]
    if alone:
        raise ValueError(
            f"{len(alone)} of {len(image_files)} images have no mask in {masks!r}: "
            f"{_a_few(alone)}. Image and mask belong together when their names are the same (in a "
            "glob, the part that * stands for): add the masks or move the images away."
        )
    alone = [mask_files[name] for name in mask_files if name not in image_files]
    if alone:
        raise ValueError(
            f"{len(alone)} of {len(mask_files)} masks have no image in {images!r}: "
            f"{_a_few(alone)}. Add the images or move the masks away."
        )
    names = sorted(image_files, key=lambda name: _natural(image_files[name]))
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
                    f"`label_map` names the colours {colours}, which takes a `palette`: the "
                    "(num_classes, 3) RGB colours in label order."
                )
            # A colour beyond the palette reads as a label beyond the classes, then is renamed.
            first = len(self.palette)
            self._colours = np.concatenate([self.palette, np.array(colours, "uint8")])
            for i, colour in enumerate(colours):
                label_map[first + i] = label_map.pop(colour)
        self._rename = _renaming(label_map)

    def read(self, i):
        image, mask = read_image(self._images[i]), self.mask(i)
        check_sizes(image.shape[:2], mask.shape, self.where(i))
        return image, mask

    def mask(self, i):
        return self._rename(read_mask(self._masks[i], palette=self._colours))

    def image_size(self, i):
        return image_size(self._images[i])

    def where(self, i):
        return f"{self._masks[i]} (mask of {self._images[i]})"


def _files(where, what):
    """{name for matching: path} of a glob or directory."""
    if os.path.isdir(where):
        paths = [
            entry.path
            for entry in os.scandir(where)
            if entry.is_file()
            and not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in IMAGE_ENDINGS
        ]
        names = [os.path.splitext(os.path.basename(path))[0] for path in paths]
        hint = f"The directory {where!r} holds no {what} (files ending in .jpg, .png, …)."
    else:
        paths = [path for path in glob.glob(where, recursive=True) if os.path.isfile(path)]
        names = [_starred(where, path) for path in paths]
        hint = f"No {what} match {where!r}" + (
            "." if glob.has_magic(where) else ", which is neither a directory nor a glob."
        )
    if not paths:
        raise FileNotFoundError(f"{hint} Give a directory, or a glob such as 'images/*.jpg'.")
    files = {}
    for name, path in sorted(zip(names, paths, strict=True)):
        if name in files:
            raise ValueError(
                f"Two {what} are called {name!r}: {files[name]} and {path}. Narrow the glob, "
                "'images/*.jpg' for instance, or rename one."
            )
        files[name] = path
    return files


def _starred(pattern, path):
    """What the wildcards of the glob stand for in `path`, endings apart; else the plain name."""
    pattern, path = (os.path.splitext(p.replace(os.sep, "/"))[0] for p in (pattern, path))
    wildcards = {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "([^/])"}
    regex = "".join(
        wildcards.get(part, f"({part})".replace("[!", "[^")) if place % 2 else re.escape(part)
        for place, part in enumerate(re.split(r"(\*\*/|\*|\?|\[[^]]+\])", pattern))
    )
    match = re.fullmatch(regex, path)
    found = [group.strip("/") for group in match.groups() if group] if match else []
    return "/".join(found) or os.path.basename(path)


def _natural(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _a_few(paths, count=3):
    listed = ", ".join(str(path) for path in itertools.islice(sorted(paths, key=_natural), count))
    return listed + (f" and {len(paths) - count} more" if len(paths) > count else "")


def _renaming(label_map):
    if not label_map:
        return lambda mask: mask
    olds, news = zip(*label_map.items(), strict=True)
    if not all(isinstance(value, (int, np.integer)) and value >= 0 for value in olds + news):
        raise ValueError(
            f"`label_map` renames labels, integers from 0 up, {{255: 1}} for instance; got "
            f"{label_map!r}."
        )
    table = np.arange(max(256, *(old + 1 for old in olds)))
    table[list(olds)] = news
    table = table.astype("uint8" if table[:256].max() <= 255 else "int32")

    def rename(mask):
        if mask.dtype == "uint8":
            return table[mask]
        known = (mask >= 0) & (mask < len(table))
        return np.where(known, table.astype(mask.dtype)[np.where(known, mask, 0)], mask)

    return rename
