"""Image and mask files in two directories or globs, as pairs."""

import glob
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.checks import check_sizes
from keras_encnet.data.conventions import check_palette, is_integer
from keras_encnet.data.image_files import image_size
from keras_encnet.data.images import read_image, read_mask
from keras_encnet.data.pairs import Pairs

MAX_VALUE = np.iinfo("int32").max  # of a mask
IMAGE_ENDINGS = set(
    ".jpg .jpeg .jpe .jfif .png .tif .tiff .webp .avif .bmp .dib .gif .ppm .pgm .pbm .pnm".split()
)


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
    `"*_rgb.jpg"` and `"*_mask.png"` match. Names in different Unicode forms are the same. Files are
    read on demand.

    Args:
        images: a directory of image files, or a glob. Brackets in the name of a directory that exists
            are part of the name.
        masks: the same for masks. Palette and greyscale files contain label values.
        labels: class names in label order.
        label_map: dict that maps mask values to labels, all at once: `{255: 1}` turns 0/255 masks
            into 0/1, `{0: 255, 1: 0, 2: 1}` shifts values down by one and ignores 0. With `palette`,
            keys may be colours too: `{(0, 0, 0): 255}`.
        palette: RGB colours of the classes, `(num_classes, 3)`, integers in [0, 255], to read colour
            masks.

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
        self._colours = self.palette
        if colours:
            if palette is None:
                raise ValueError(
                    "`label_map` must map integers if there is no `palette`. Received: the colours "
                    f"{colours}. Give `palette`, the (num_classes, 3) RGB colours in label order."
                )
            # These colours are read as labels after the last class, which `label_map` then maps.
            first = len(self.palette)
            self._colours = np.concatenate([self.palette, check_palette(colours)])
            for i, colour in enumerate(colours):
                label_map[first + i] = label_map.pop(colour)
        self._map_labels = _label_mapping(label_map)

    def read(self, i):
        image, mask = read_image(self._images[i]), self.mask(i)
        check_sizes(image.shape[:2], mask.shape, self.where(i), self.files(i))
        return image, mask

    def mask(self, i):
        return self._map_labels(read_mask(self._masks[i], palette=self._colours))

    def image_size(self, i):
        return image_size(self._images[i])

    def where(self, i):
        return f"{self._masks[i]} (mask of {self._images[i]})"

    def files(self, i):
        return self._images[i], self._masks[i]


def image_paths(source: str | os.PathLike) -> list[pathlib.Path]:
    """The image files of a directory or glob in natural order, or one file.

    Hidden files, such as the `._0.jpg` that macOS adds, and files that are not images by their ending
    are left out.

    Args:
        source: a directory, a glob such as `"photos/*.jpg"`, or one file of any ending. Brackets in the
            name of a directory that exists are part of the name.

    Returns:
        The paths, at least one.

    Raises:
        FileNotFoundError: if there are no image files.

    >>> import tempfile
    >>> here = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("10.jpg", "2.jpg", "._2.jpg", "notes.txt"):
    ...     (here / name).touch()
    >>> [path.name for path in image_paths(here)]
    ['2.jpg', '10.jpg']
    >>> [path.name for path in image_paths(here / "1*")]
    ['10.jpg']
    """
    source = os.fspath(source)
    if os.path.isfile(source):
        return [pathlib.Path(source)]
    directory, pattern = _split(source)
    paths = [os.path.join(directory, name) for name in _matching(directory, pattern)]
    if not paths:
        raise FileNotFoundError(
            "Images must be a directory of image files, a glob such as 'photos/*.jpg', or a file. "
            f"Received: {source!r}, {_why_empty(source)}"
        )
    return [pathlib.Path(path) for path in sorted(paths, key=_natural_order)]


def _files(source, what):
    """{name: path} of the files in a directory or glob."""
    directory, pattern = _split(source)
    files = {}
    for found in sorted(_matching(directory, pattern)):
        # macOS writes names in another Unicode form than most programs.
        name = unicodedata.normalize("NFC", _wildcard_part(pattern or "*", found))
        path = os.path.join(directory, found)
        if name in files:
            raise ValueError(
                f"The names of {what} must be unique. Received: {name!r} twice, {files[name]} and "
                f"{path}. Narrow the glob, 'images/*.jpg' for instance, or rename one."
            )
        files[name] = path
    if not files:
        raise FileNotFoundError(
            f"`{what}` must be a directory of image files, or a glob such as 'images/*.jpg'. "
            f"Received: {source!r}, {_why_empty(source)}"
        )
    return files


def _split(source):
    """A directory, and the glob below it; "" for all images of the directory.

    The longest directory that exists is taken as it is, so that its name may contain brackets."""
    if os.path.isdir(source):
        return source, ""
    path = pathlib.PurePath(source)
    directory = next((each for each in path.parents if os.path.isdir(each)), path.parent)
    return ("" if str(directory) == "." else str(directory)), str(path.relative_to(directory))


def _matching(directory, pattern):
    """Paths below `directory` of the image files that match; of all of them for the pattern ""."""
    if os.path.isfile(os.path.join(directory, pattern)):
        return [pattern]
    # A glob may ask for other files than images.
    endings = IMAGE_ENDINGS | {os.path.splitext(pattern)[1].lower()} if pattern else IMAGE_ENDINGS
    return [
        name
        for name in glob.glob(pattern or "*", root_dir=directory or None, recursive=True)
        if os.path.isfile(os.path.join(directory, name))
        and os.path.splitext(name)[1].lower() in endings
        and not os.path.basename(name).startswith(".")
    ]


def _why_empty(source):
    if os.path.isdir(source):
        return "a directory without files ending in .jpg, .png, …"
    if glob.has_magic(source):
        return "a glob that matches no files"
    return "neither a directory nor a glob" if not os.path.exists(source) else "a special file"


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
    parts = re.split(r"(\d+)", os.fspath(name))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _first_few(paths, count=3):
    first = sorted(paths, key=_natural_order)[:count]
    listed = ", ".join(map(str, first))
    return listed + (f" and {len(paths) - count} more" if len(paths) > count else "")


def _label_mapping(label_map):
    """The function that applies `label_map` to a mask."""
    if not label_map:
        return lambda mask: mask
    olds, news = zip(*label_map.items(), strict=True)
    integers = all(map(is_integer, olds + news))
    if not integers or min(news) < 0 or max(map(abs, olds + news)) > MAX_VALUE:
        raise ValueError(
            "`label_map` must map integers to integers from 0 up, {255: 1} for instance. "
            f"Received: {label_map!r}"
        )
    olds, news = np.array(olds), np.array(news)
    order = np.argsort(olds)
    olds, news = olds[order], news[order]

    def map_labels(mask):
        at = np.searchsorted(olds, mask).clip(max=len(olds) - 1)
        return np.where(olds[at] == mask, news[at], mask)

    table = map_labels(np.arange(256))
    table = table.astype("uint8" if table.max() <= 255 else "int32")
    return lambda mask: table[mask] if mask.dtype == "uint8" else map_labels(mask).astype("int32")
