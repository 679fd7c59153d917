"""The augmentation of the recipes: random resizing, cropping, flipping, colours and blur.

The defaults are those of mmsegmentation. The only source of randomness is the
`numpy.random.Generator` passed to each function. Images are `uint8`
`(height, width, 3)`, RGB, and masks integers `(height, width)`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageFilter

from keras_encnet.data.augmentation import (
    FLIP,
    MAX_CLASS_SHARE,
    PADDING,
    PHOTOMETRIC,
    SCALE,
    check_augmentation,
)
from keras_encnet.data.colours import distort
from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.data.pillow_resizing import antialiased_image, centred_mask
from keras_encnet.data.resizing import resize_image, resize_mask


def augment(
    rng: np.random.Generator,
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    *,
    resize: tuple[int, int] | Mapping | None = None,
    scale: tuple[float, float] = SCALE,
    antialias: bool = False,
    max_class_share: float = MAX_CLASS_SHARE,
    flip: float = FLIP,
    photometric: bool | Mapping = True,
    blur: float = 0.0,
    padding: Sequence[int] = PADDING,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes, crops, flips and recolours an image at random, pads it to `size` and blurs it; also its
    mask.

    Args:
        rng: source of randomness.
        image, mask: the image and its mask, which are not changed.
        size: `(height, width)` of the crop in pixels.
        resize, scale, antialias, max_class_share, flip, photometric, blur, padding: as for
            `check_augmentation`.
        ignore_index: mask value of ignored pixels and of the padding.

    Returns:
        The augmented image and mask, both of `size`.

    Raises:
        ValueError: if one of these is invalid.

    Source: mmsegmentation 1.2.2, `configs/_base_/datasets/ade20k.py`; PyTorch-Encoding 0.5.0,
    `encoding/datasets/base.py`.

    >>> rng = np.random.default_rng(0)
    >>> image, mask = augment(rng, np.zeros((40, 60, 3), "uint8"), np.ones((40, 60), int), (32, 48))
    >>> image.shape, mask.shape
    ((32, 48, 3), (32, 48))
    """
    check_augmentation(
        resize=resize,
        scale=scale,
        antialias=antialias,
        max_class_share=max_class_share,
        flip=flip,
        photometric=photometric,
        blur=blur,
        padding=padding,
    )
    height, width = random_size(rng, *mask.shape, resize=resize, scale=scale)
    window, mask = random_crop(
        rng,
        mask,
        height,
        width,
        size,
        centred=antialias,
        max_class_share=max_class_share,
        ignore_index=ignore_index,
    )
    image = (antialiased_image if antialias else resize_image)(image, height, width, window)
    image, mask = random_flip(rng, image, mask, flip)
    if photometric is True:
        image = distort(rng, image)
    elif photometric:
        image = distort(rng, image, **{**dict.fromkeys(PHOTOMETRIC), **photometric})
    image, mask = pad(image, mask, size, colour=padding, ignore_index=ignore_index)
    return random_blur(rng, image, blur), mask


def random_size(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    resize: tuple[int, int] | Mapping | None = None,
    scale: tuple[float, float] = SCALE,
) -> tuple[int, int]:
    """The `(height, width)` of an image after resizing it at random, keeping its aspect ratio.

    A ratio is drawn, or the length of a side if `resize` names one; see `check_augmentation`.

    >>> random_size(np.random.default_rng(0), 360, 480, scale=(2, 2))
    (720, 960)
    >>> random_size(np.random.default_rng(0), 360, 480, resize=(2048, 512), scale=(1, 1))
    (512, 683)
    >>> random_size(np.random.default_rng(0), 360, 480, resize={"long": 512}, scale=(1, 1))
    (384, 512)
    """
    if isinstance(resize, Mapping):
        ((side, pixels),) = resize.items()
        low, high = (int(pixels * ratio) for ratio in scale)
        return _with_side(height, width, side, int(rng.integers(low, high, endpoint=True)))
    ratio = rng.uniform(*scale)
    if resize is None:
        return _scaled(height, width, ratio)
    long, short = int(max(resize) * ratio), int(min(resize) * ratio)
    return _scaled(height, width, min(long / max(height, width), short / min(height, width)))


def random_crop(
    rng: np.random.Generator,
    mask: np.ndarray,
    height: int,
    width: int,
    size: tuple[int, int],
    *,
    centred: bool = False,
    max_class_share: float = MAX_CLASS_SHARE,
    redraws: int = 10,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Chooses a crop of an image that is resized to `(height, width)`, and crops its mask.

    A crop is rejected, up to `redraws` times, if it has only one class, or one class has
    `max_class_share` or more of the pixels that are not ignored. A share of 1 allows every crop.

    Args:
        rng: source of randomness.
        mask: the mask, at its own size.
        height, width: the size that it is resized to.
        size: `(height, width)` of the crop in pixels.
        centred: whether to resize the mask by `centred_mask` instead of `resize_mask`.
        max_class_share: as above; mmsegmentation's `cat_max_ratio`.
        redraws: as above.
        ignore_index: mask value of ignored pixels.

    Returns:
        The window `(top, left, height, width)` in pixels of the resized image, no larger than
        `size` or the image, and the resized mask within it.

    >>> mask = np.repeat([[0, 1]], 40, axis=1).repeat(40, axis=0)
    >>> window, crop = random_crop(np.random.default_rng(0), mask, 40, 80, (32, 32))
    >>> window[2:], sorted(set(crop.ravel().tolist()))
    ((32, 32), [0, 1])
    """
    rows, columns = min(size[0], height), min(size[1], width)
    resized = centred_mask if centred else resize_mask
    redraws = redraws if max_class_share < 1 else 0
    for draw in range(redraws + 1):
        top = int(rng.integers(height - rows + 1))
        left = int(rng.integers(width - columns + 1))
        window = (top, left, rows, columns)
        crop = resized(mask, height, width, window)
        if draw == redraws or _is_varied(crop, ignore_index, max_class_share):
            return window, crop


def random_flip(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, probability: float = FLIP
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors the image and its mask left to right with a probability.

    >>> image, mask = np.arange(6, dtype="uint8").reshape(1, 2, 3), np.array([[0, 1]])
    >>> random_flip(np.random.default_rng(0), image, mask)[1].tolist()
    [[0, 1]]
    >>> random_flip(np.random.default_rng(1), image, mask)[1].tolist()
    [[0, 1]]
    """
    if rng.random() < probability:
        return image[:, ::-1], mask[:, ::-1]
    return image, mask


def random_blur(rng: np.random.Generator, image: np.ndarray, probability: float) -> np.ndarray:
    """Blurs the image with a probability, by Pillow's Gaussian blur of a radius of 0 to 1 pixels.

    >>> edge = np.repeat(np.array([[[0], [200]]], "uint8"), 3, axis=2)
    >>> random_blur(np.random.default_rng(0), edge, probability=1)[0, :, 0].tolist()
    [6, 194]
    """
    if probability and rng.random() < probability:
        radius = rng.random()
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    return image


def fit(
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    *,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes an image and its mask to fit into `size`, keeping their aspect ratio, and pads them.

    >>> image, mask = fit(np.zeros((40, 80, 3), "uint8"), np.ones((40, 80), int), (32, 32))
    >>> mask[:, 0].tolist() == [1] * 16 + [255] * 16
    True
    """
    height, width = mask.shape
    height, width = _scaled(height, width, min(size[0] / height, size[1] / width))
    image, mask = resize_image(image, height, width), resize_mask(mask, height, width)
    return pad(image, mask, size, ignore_index=ignore_index)


def pad(
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    *,
    colour: Sequence[int] = PADDING,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[np.ndarray, np.ndarray]:
    """Pads an image and its mask to `size` on the right and at the bottom.

    The image is padded with `colour`, by default the mean colour, which is about 0 after
    normalization, and the mask with `ignore_index`. The mask becomes `int32` if its dtype cannot hold
    this value.

    >>> image, mask = pad(np.zeros((1, 1, 3), "uint8"), np.zeros((1, 1), "uint8"), (1, 2))
    >>> image.tolist(), mask.tolist()
    ([[[0, 0, 0], [124, 116, 104]]], [[0, 255]])
    """
    rows, columns = mask.shape
    if ignore_index > np.iinfo(mask.dtype).max:
        mask = mask.astype("int32")
    if (rows, columns) == tuple(size):
        return image, mask
    padded = np.empty((*size, 3), "uint8")
    padded[:rows, :columns] = image
    padded[:rows, columns:] = padded[rows:] = colour
    labels = np.full(size, ignore_index, mask.dtype)
    labels[:rows, :columns] = mask
    return padded, labels


def _scaled(height, width, ratio):
    return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))


def _with_side(height, width, side, pixels):
    reference = max(height, width) if side == "long" else min(height, width)
    # PyTorch-Encoding rounds the other side down in 0.5, and to the nearest since 1.0.
    half = 0.5 if side == "long" else 0
    return tuple(max(1, int(each * pixels / reference + half)) for each in (height, width))


def _is_varied(mask, ignore_index, share):
    if mask.dtype == "uint8":
        counts = np.array(Image.fromarray(mask).histogram())
        counts[ignore_index : ignore_index + 1] = 0
        counts = counts[counts > 0]
    else:
        counts = np.unique(mask[mask != ignore_index], return_counts=True)[1]
    return len(counts) > 1 and counts.max() < share * counts.sum()
