"""Conventions for images, masks and classes, shared by the whole package."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

MIN_SIZE = 32  # smallest side of an image, in pixels
IGNORE_INDEX = 255  # mask value of ignored pixels
WIDE_IGNORE_INDEX = 65535  # the same for models that have a class 255

RED = (225, 60, 50)
DISTINCT = 256  # number of colours chosen to be easy to distinguish


def ignore_index_for(num_classes: int, ignore_index: int = IGNORE_INDEX) -> int:
    """`ignore_index`, or 65535 if `ignore_index` is one of the classes."""
    return ignore_index if ignore_index >= num_classes else WIDE_IGNORE_INDEX


def label_dtype(num_classes: int) -> str:
    """The dtype of label maps: `"uint8"` up to 255 classes, otherwise `"uint16"`."""
    return "uint8" if num_classes <= 255 else "uint16"


def class_names(num_classes: int, labels: Sequence[str] | None = None) -> tuple[str, ...]:
    """Class names as a tuple: `labels`, or default names.

    >>> class_names(2), class_names(2, ["sky", "road"])
    (('class 0', 'class 1'), ('sky', 'road'))
    """
    return tuple(labels or (f"class {i}" for i in range(num_classes)))


def labels_difference(
    first: Sequence[str] | None, second: Sequence[str] | None, places: tuple[str, str] = ("", "")
) -> str:
    """How two lists of class names differ, for a message.

    Args:
        first, second: the lists, or `None` where there are no names.
        places: where each list is from, "in the data" for instance.

    >>> labels_difference(["sky", "road"], ["sky", "car"], ("in the data", "in the model"))
    "label 1 is 'road' in the data and 'car' in the model"
    >>> labels_difference(["sky", "road"], ["sky"])
    '2 labels and 1'
    """
    here, there = (f" {place}" if place else "" for place in places)
    first, second = first or (), second or ()
    if len(first) != len(second):
        return f"{len(first)} labels{here} and {len(second)}{there}"
    i = next(i for i, label in enumerate(first) if label != second[i])
    order = ", the same names in another order" if sorted(first) == sorted(second) else ""
    return f"label {i} is {first[i]!r}{here} and {second[i]!r}{there}{order}"


def class_palette(num_classes: int, palette: ArrayLike | None = None) -> np.ndarray:
    """Class colours, `uint8` `(num_classes, 3)`, RGB: `palette`, or the default colours.

    Raises:
        ValueError: if `palette` is none of `num_classes` colours, see `check_palette`.
    """
    return default_palette(num_classes) if palette is None else check_palette(palette, num_classes)


def check_palette(palette: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """A palette as an array, if it is one.

    Args:
        palette: RGB colours, `(n, 3)`, integers in [0, 255].
        num_classes: number of colours that it must have. `None` allows any.

    Returns:
        `uint8` array `(n, 3)`.

    Raises:
        ValueError: if the shape is another, or values are not integers in [0, 255].

    >>> check_palette([(1.0, 0.5, 0.0)])
    Traceback (most recent call last):
    ...
    ValueError: `palette` must have integers in [0, 255]. Received: floats from 0 to 1... by 255, ...
    """
    try:
        colours = np.array(palette)
    except ValueError:  # rows of different lengths
        colours = np.array(palette, object)
    numbers = colours.dtype.kind in "uif"
    if not numbers or colours.ndim != 2 or colours.shape[1] != 3 or not len(colours):
        raise ValueError(
            "`palette` must have shape (num_classes, 3), RGB colours. "
            f"Received: {f'shape {colours.shape}' if numbers else repr(palette)}"
        )
    if num_classes is not None and len(colours) != num_classes:
        raise ValueError(
            f"`palette` must have one colour for each of the {num_classes} classes. "
            f"Received: {len(colours)} colours"
        )
    low, high = colours.min(), colours.max()
    floats = colours.dtype.kind == "f"
    if floats and 0 <= low and 0 < high <= 1:
        raise ValueError(
            f"`palette` must have integers in [0, 255]. Received: floats from {low:g} to {high:g}, "
            "which look scaled to [0, 1]. Multiply by 255, np.rint(np.array(palette) * 255)."
        )
    if not 0 <= low <= high <= 255 or (floats and (colours != np.rint(colours)).any()):
        invalid = colours[~((colours >= 0) & (colours <= 255) & (colours == np.rint(colours)))]
        raise ValueError(f"`palette` must have integers in [0, 255]. Received: {invalid[0]:g}")
    return colours.astype("uint8")


def default_palette(num_classes: int) -> np.ndarray:
    """Default class colours, each as different as possible from those before it.

    Args:
        num_classes: number of colours, up to 65,536.

    Returns:
        `uint8` array `(num_classes, 3)`, RGB, all distinct. A longer palette starts with the shorter
        one.

    >>> default_palette(3).tolist()
    [[221, 54, 54], [30, 245, 245], [30, 30, 173]]
    """
    levels = np.linspace(30, 245, 10).round()
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    # Grey and dark colours would not stand out on a photograph.
    colours = colours[(np.ptp(colours, axis=1) >= 70) & (colours.max(1) >= 120)]
    chosen = [int(np.argmin(np.abs(colours - RED).sum(1)))]
    nearest = np.full(len(colours), np.inf)
    for _ in range(1, min(num_classes, DISTINCT)):
        nearest = np.minimum(nearest, np.square(colours - colours[chosen[-1]]).sum(1))
        chosen.append(int(nearest.argmax()))
    palette = [tuple(colour) for colour in colours[chosen[:num_classes]].astype(int).tolist()]
    # Nobody can distinguish more colours by eye: the rest are merely different.
    codes = (i * 0x9E3779 % (1 << 24) for i in itertools.count(1))
    more = ((code >> 16, code >> 8 & 255, code & 255) for code in codes)
    taken = set(palette)
    unused = (colour for colour in more if colour not in taken)
    palette += itertools.islice(unused, num_classes - len(palette))
    return np.array(palette, "uint8").reshape(-1, 3)


def check_image_size(height: int, width: int, what: str, remedy: str = "Enlarge it.") -> None:
    """Raises an error if a side of an image is smaller than `MIN_SIZE`.

    Args:
        height, width: size of the image in pixels.
        what: subject of the message, "The image 'a.jpg'" for instance.
        remedy: last sentence of the message.

    Raises:
        ValueError: if either side is smaller than `MIN_SIZE`.

    >>> check_image_size(20, 64, "The image")
    Traceback (most recent call last):
    ...
    ValueError: The image must have 32 pixels or more on both sides. Received: 20×64 (height×width). ...
    """
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"{what} must have {MIN_SIZE} pixels or more on both sides. "
            f"Received: {height}×{width} (height×width). {remedy}"
        )


def is_integer(value: object) -> bool:
    """Whether a value is an integer, of Python or NumPy, and not a boolean.

    >>> is_integer(np.int64(3)), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_integer(name: str, value: object, least: int = 1, remedy: str = "") -> None:
    """Raises an error unless a value is an integer of `least` or more.

    Args:
        name: the argument, for the message.
        value: what was given for it.
        least: the smallest valid value.
        remedy: last sentence of the message.

    Raises:
        ValueError: if the value is something else, or smaller.

    >>> check_integer("epochs", 1.5)
    Traceback (most recent call last):
    ...
    ValueError: `epochs` must be a positive integer. Received: 1.5
    >>> check_integer("seed", None, 0, "Leave it out.")
    Traceback (most recent call last):
    ...
    ValueError: `seed` must be an integer from 0 up. Received: None. Leave it out.
    """
    if not is_integer(value) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer from {least} up"
        raise ValueError(
            f"`{name}` must be {kind}. Received: {value!r}{f'. {remedy}' if remedy else ''}"
        )
