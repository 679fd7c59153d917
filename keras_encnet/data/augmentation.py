"""The arguments of the augmentation: their checks, and a user's own transform.

Images are `uint8` `(height, width, 3)`, RGB, and masks integers `(height, width)`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import numpy as np

from keras_encnet.data.conventions import is_integer

SCALE, MAX_CLASS_SHARE, FLIP = (0.5, 2.0), 0.75, 0.5  # those of mmsegmentation's recipes
PHOTOMETRIC = ("brightness", "contrast", "saturation", "hue")
# The ImageNet mean (123.675, 116.28, 103.53), rounded: at most 0.009 after normalization.
PADDING = (124, 116, 104)
# The default of each argument, and the value that turns it off.
HARMLESS = {
    "resize": (None,),
    "scale": (SCALE, (1, 1)),
    "antialias": (False,),
    "max_class_share": (MAX_CLASS_SHARE, 1),
    "flip": (FLIP, 0),
    "photometric": (True, False),
    "blur": (0,),
    "padding": (PADDING,),
    "repeat": (1,),
}


def check_augmentation(
    *,
    resize: tuple[int, int] | Mapping | None = None,
    scale: tuple[float, float] = SCALE,
    antialias: bool = False,
    max_class_share: float = MAX_CLASS_SHARE,
    flip: float = FLIP,
    photometric: bool | Mapping = True,
    blur: float = 0.0,
    padding: Sequence[int] = PADDING,
) -> None:
    """Checks the arguments of the augmentation.

    Args:
        resize: `(long, short)` sides in pixels that an image is fitted into at ratio 1, in either
            order. `{"short": 520}` or `{"long": 520}` gives the pixels of one side at ratio 1: its
            length is then drawn instead of a ratio, as in PyTorch-Encoding. `None` keeps the size.
        scale: smallest and largest ratio of the random resizing. `(1, 1)` turns it off.
        antialias: whether to resize as Pillow does: the image with antialiasing, which makes large
            images smoother that shrink, and the mask at the centres of pixels. Otherwise as OpenCV.
        max_class_share: crops are drawn again, up to ten times, if one class has this share or more of
            the pixels that are not ignored, or is alone; `cat_max_ratio` in mmsegmentation. 1 allows
            every crop.
        flip: probability that an image is mirrored left to right. 0 turns it off.
        photometric: whether colours are changed, each property with a probability of 1/2. A dict
            says which of them, and how far: `"brightness"` in levels (0 to 255), `"contrast"` and
            `"saturation"` as smallest and largest factor, `"hue"` as an integer (0 to 90) of which 180
            are a full turn. `True` is `{"brightness": 32, "contrast": (0.5, 1.5), "saturation": (0.5,
            1.5), "hue": 18}`.
        blur: probability of a Gaussian blur with a radius between 0 and 1 pixels. 0 turns it off.
        padding: colour that fills images which are smaller than the crop, RGB in [0, 255].

    Raises:
        ValueError: if one of them is something else.

    >>> check_augmentation(scale=(2, 1))
    Traceback (most recent call last):
    ...
    ValueError: `scale` must be (smallest, largest), two positive numbers. Received: (2, 1). ...
    """
    if not _is_resize(resize):
        raise ValueError(
            "`resize` must be (long, short), two positive integers, or {'short': pixels} or "
            f"{{'long': pixels}}, or None. Received: {resize!r}"
        )
    if not _is_interval(scale) or scale[0] == 0:
        raise ValueError(
            f"`scale` must be (smallest, largest), two positive numbers. Received: {scale!r}. "
            "(1, 1) turns random resizing off."
        )
    if not isinstance(antialias, bool):
        raise ValueError(f"`antialias` must be True or False. Received: {antialias!r}")
    if not _is_number(max_class_share) or not 0 < max_class_share <= 1:
        raise ValueError(
            "`max_class_share` must be a number above 0, up to 1. Received: "
            f"{max_class_share!r}. 1 allows every crop."
        )
    for name, value in {"flip": flip, "blur": blur}.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError(
                f"`{name}` must be a probability, a number from 0 to 1. Received: {value!r}. "
                "0 turns it off."
            )
    if np.shape(padding) != (3,) or not all(is_integer(v) and 0 <= v <= 255 for v in padding):
        raise ValueError(
            f"`padding` must be an RGB colour, three integers from 0 to 255. Received: {padding!r}"
        )
    if isinstance(photometric, bool):
        return
    if not isinstance(photometric, Mapping) or not set(photometric) <= set(PHOTOMETRIC):
        raise ValueError(
            "`photometric` must be True, False, or a dict with some of the keys 'brightness', "
            f"'contrast', 'saturation' and 'hue'. Received: {photometric!r}"
        )
    for name, value in photometric.items():
        if name == "brightness":
            valid, kind = _is_number(value) and 0 <= value <= 255, "a number of levels from 0 to 255"
        elif name == "hue":
            valid, kind = is_integer(value) and 0 <= value <= 90, "an integer from 0 to 90"
        else:
            valid, kind = _is_interval(value), "(smallest, largest), two factors from 0 up"
        if not valid:
            raise ValueError(f"`photometric[{name!r}]` must be {kind}. Received: {value!r}")


def check_unused(**options) -> None:
    """Raises an error if an argument asks for what is not done without the augmentation.

    Args:
        **options: arguments of `check_augmentation`, which has checked them, and `repeat`. Default
            values and those that turn something off are valid.

    >>> check_unused(scale=(1, 1), flip=0.25, photometric=False)
    Traceback (most recent call last):
    ...
    ValueError: `flip` must be left out without augment=True, which it is a part of. Received: 0.25
    """
    for name, value in options.items():
        if isinstance(value, (Sequence, np.ndarray)):
            value = tuple(value)
        if value not in HARMLESS[name]:
            raise ValueError(
                f"`{name}` must be left out without augment=True, which it is a part of. "
                f"Received: {value!r}"
            )


def transformed(
    transform: Callable, rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """What a user's `transform(rng, image, mask)` makes of a pair, if it is an image and a mask.

    Args:
        transform: a function that returns (image, mask).
        rng: source of randomness.
        image, mask: the pair. The function gets copies, which it may change.
        where: the source of the pair, for messages.

    Returns:
        The image, `uint8` `(height, width, 3)`, and the mask, integers of the same size.

    Raises:
        ValueError: if `transform` returns something else. The message names the function and the pair.

    >>> def mirrored(rng, image, mask):
    ...     return image[:, ::-1], mask[:, ::-1]
    >>> image, mask = np.zeros((1, 2, 3), "uint8"), np.array([[3, 4]])
    >>> transformed(mirrored, np.random.default_rng(0), image, mask, "a.png")[1].tolist()
    [[4, 3]]
    """
    name = getattr(transform, "__name__", type(transform).__name__)
    source = f"from `transform` ({name}) for {where}"
    try:
        result = transform(rng, image.copy(), mask.copy())
    except Exception as error:
        error.add_note(f"Raised {source}. It is called as transform(rng, image, mask).")
        raise
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        found, remedy = f"a {type(result).__name__}", ""
        if result is None:
            found, remedy = "None", " Does it end with `return image, mask`?"
        elif isinstance(result, (tuple, list)):
            found += f" of {len(result)}"
        elif isinstance(result, Mapping) and {"image", "mask"} <= result.keys():
            remedy = ' Return result["image"], result["mask"].'
        raise ValueError(f"`transform` must return (image, mask). Received: {found} {source}.{remedy}")
    image, mask = map(np.asarray, result)
    if image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        remedy = ""
        if image.dtype.kind == "f":
            remedy = " Return levels from 0 to 255 as uint8: the model normalizes images itself."
        elif image.ndim == 3 and image.shape[0] == 3:
            remedy = " Return channels last."
        raise ValueError(
            "The image that `transform` returns must be uint8 of shape (height, width, 3). Received: "
            f"shape {image.shape}, dtype {image.dtype} {source}.{remedy}"
        )
    if mask.dtype.kind not in "iu" or mask.ndim != 2:
        remedy = ""
        if mask.dtype.kind == "f":
            remedy = " Labels must not be blended: resize and turn masks with nearest neighbour."
        raise ValueError(
            "The mask that `transform` returns must be integers of shape (height, width). Received: "
            f"shape {mask.shape}, dtype {mask.dtype} {source}.{remedy}"
        )
    if image.shape[:2] != mask.shape:
        raise ValueError(
            "The image and mask that `transform` returns must have the same size. Received: "
            f"{image.shape[:2]} and {mask.shape} (height, width) {source}."
        )
    return image, mask


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_resize(value):
    if isinstance(value, Mapping):
        return list(value) in (["short"], ["long"]) and _are_positive(value.values())
    return value is None or (_is_two(value) and _are_positive(value))


def _are_positive(values):
    return all(is_integer(value) and value > 0 for value in values)


def _is_two(value):
    return isinstance(value, (Sequence, np.ndarray)) and len(value) == 2


def _is_interval(value):
    """Whether `value` is two finite numbers from 0 up, in order."""
    return _is_two(value) and all(map(_is_number, value)) and 0 <= value[0] <= value[1] < math.inf
