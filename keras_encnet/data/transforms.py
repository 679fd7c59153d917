"""The augmentation of mmsegmentation's recipes: random resizing, cropping, flipping and colours.

The only source of randomness is the `numpy.random.Generator` passed to each function. Images are
`uint8` `(height, width, 3)`, RGB, and masks integers `(height, width)`.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from keras_encnet.data.augmentation import FLIP, PHOTOMETRIC, SCALE, check_augmentation
from keras_encnet.data.colours import distort
from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.data.resizing import resize_image, resize_mask

# The ImageNet mean (123.675, 116.28, 103.53), rounded: at most 0.009 after normalization.
PADDING = (124, 116, 104)


def augment(
    rng: np.random.Generator,
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    *,
    resize: tuple[int, int] | None = None,
    scale: tuple[float, float] = SCALE,
    flip: float = FLIP,
    photometric: bool | Mapping = True,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes, crops, flips and recolours an image at random, and pads it to `size`; also its mask.

    Args:
        rng: source of randomness.
        image, mask: the image and its mask, which are not changed.
        size: `(height, width)` of the crop in pixels.
        resize, scale, flip, photometric: as for `check_augmentation`.
        ignore_index: mask value of ignored pixels and of the padding.

    Returns:
        The augmented image and mask, both of `size`.

    Raises:
        ValueError: if `resize`, `scale`, `flip` or `photometric` is invalid.

    Source: mmsegmentation 1.2.2, `configs/_base_/datasets/ade20k.py`.

    >>> rng = np.random.default_rng(0)
    >>> image, mask = augment(rng, np.zeros((40, 60, 3), "uint8"), np.ones((40, 60), int), (32, 48))
    >>> image.shape, mask.shape
    ((32, 48, 3), (32, 48))
    """
    check_augmentation(resize=resize, scale=scale, flip=flip, photometric=photometric)
    height, width = random_size(rng, *mask.shape, resize=resize, scale=scale)
    window, mask = random_crop(rng, mask, height, width, size, ignore_index=ignore_index)
    image = resize_image(image, height, width, window)
    image, mask = random_flip(rng, image, mask, flip)
    if photometric is True:
        image = distort(rng, image)
    elif photometric:
        image = distort(rng, image, **{**dict.fromkeys(PHOTOMETRIC), **photometric})
    return pad(image, mask, size, ignore_index=ignore_index)


def random_size(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    resize: tuple[int, int] | None = None,
    scale: tuple[float, float] = SCALE,
) -> tuple[int, int]:
    """The `(height, width)` of an image after resizing it by a random ratio, keeping its aspect ratio.

    >>> random_size(np.random.default_rng(0), 360, 480, scale=(2, 2))
    (720, 960)
    >>> random_size(np.random.default_rng(0), 360, 480, resize=(2048, 512), scale=(1, 1))
    (512, 683)
    """
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
    ignore_index: int = IGNORE_INDEX,
    share: float = 0.75,
    redraws: int = 10,
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Chooses a crop of an image that is resized to `(height, width)`, and crops its mask.

    A crop is rejected, up to `redraws` times, if it has only one class, or one class has `share` or
    more of the pixels that are not ignored.

    Returns:
        The window `(top, left, height, width)` in pixels of the resized image, no larger than
        `size` or the image, and the resized mask within it.

    >>> mask = np.repeat([[0, 1]], 40, axis=1).repeat(40, axis=0)
    >>> window, crop = random_crop(np.random.default_rng(0), mask, 40, 80, (32, 32))
    >>> window[2:], sorted(set(crop.ravel().tolist()))
    ((32, 32), [0, 1])
    """
    rows, columns = min(size[0], height), min(size[1], width)
    for draw in range(redraws + 1):
        top = int(rng.integers(height - rows + 1))
        left = int(rng.integers(width - columns + 1))
        window = (top, left, rows, columns)
        crop = resize_mask(mask, height, width, window)
        if draw == redraws or _is_varied(crop, ignore_index, share):
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
    ignore_index: int = IGNORE_INDEX,
) -> tuple[np.ndarray, np.ndarray]:
    """Pads an image and its mask to `size` on the right and at the bottom.

    The image is padded with the mean colour, which is about 0 after normalization, and the mask with
    `ignore_index`. The mask becomes `int32` if its dtype cannot hold this value.

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
    padded[:rows, columns:] = padded[rows:] = PADDING
    labels = np.full(size, ignore_index, mask.dtype)
    labels[:rows, :columns] = mask
    return padded, labels


def _scaled(height, width, ratio):
    return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))


def _is_varied(mask, ignore_index, share):
    if mask.dtype == "uint8":
        counts = np.array(Image.fromarray(mask).histogram())
        counts[ignore_index : ignore_index + 1] = 0
        counts = counts[counts > 0]
    else:
        counts = np.unique(mask[mask != ignore_index], return_counts=True)[1]
    return len(counts) > 1 and counts.max() < share * counts.sum()
