"""The augmentation of mmsegmentation's recipes: random resizing, cropping, flipping and colours.

The only source of randomness is the `numpy.random.Generator` passed to each function. Images are
`uint8` `(height, width, 3)`, RGB, and masks integers `(height, width)`.
"""

import numpy as np
from PIL import Image

from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.data.images import resize_image, resize_mask

# The ImageNet mean (123.675, 116.28, 103.53), rounded: at most 0.009 after normalization.
PADDING = (124, 116, 104)

STRIP = 1 << 14  # pixels recoloured in one step, few enough for the processor's cache


def augment(
    rng: np.random.Generator,
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    *,
    resize: tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.5, 2.0),
    photometric: bool = True,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes, crops, flips and recolours an image at random, and pads it to `size`; also its mask.

    Args:
        rng: source of randomness.
        image, mask: the image and its mask, which are not changed.
        size: `(height, width)` of the crop in pixels.
        resize: `(long, short)` sides that the image is fitted into at ratio 1. `None` keeps its size.
        scale: smallest and largest resize ratio.
        photometric: whether to change the colours.
        ignore_index: mask value of ignored pixels and of the padding.

    Returns:
        The augmented image and mask, both of `size`.

    Source: mmsegmentation 1.2.2, `configs/_base_/datasets/ade20k.py`.

    >>> rng = np.random.default_rng(0)
    >>> image, mask = augment(rng, np.zeros((40, 60, 3), "uint8"), np.ones((40, 60), int), (32, 48))
    >>> image.shape, mask.shape
    ((32, 48, 3), (32, 48))
    """
    height, width = random_size(rng, *mask.shape, resize=resize, scale=scale)
    window, mask = random_crop(rng, mask, height, width, size, ignore_index=ignore_index)
    image = resize_image(image, height, width, window)
    image, mask = random_flip(rng, image, mask)
    if photometric:
        image = distort(rng, image)
    return pad(image, mask, size, ignore_index=ignore_index)


def random_size(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    resize: tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.5, 2.0),
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
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors the image and its mask left to right with a probability of 1/2.

    >>> image, mask = np.arange(6, dtype="uint8").reshape(1, 2, 3), np.array([[0, 1]])
    >>> random_flip(np.random.default_rng(0), image, mask)[1].tolist()
    [[0, 1]]
    >>> random_flip(np.random.default_rng(1), image, mask)[1].tolist()
    [[0, 1]]
    """
    if rng.random() < 0.5:
        return image[:, ::-1], mask[:, ::-1]
    return image, mask


def distort(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, each with a probability of 1/2.

    Brightness changes by up to 32 levels, contrast and saturation by a factor of 0.5 to 1.5, and hue
    by an integer from -18 to 17 (180 is a full turn). Contrast is changed before or after saturation
    and hue, at random. Each step is clipped and truncated to integer levels.

    >>> distort(np.random.default_rng(3), np.full((1, 1, 3), 100, "uint8")).shape
    (1, 1, 3)
    """
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1
    hue = int(rng.integers(-18, 18)) if rng.random() < 0.5 else 0
    return change_colours(image, brightness, contrast, saturation, hue, contrast_first)


def change_colours(
    image: np.ndarray,
    brightness: float = 0,
    contrast: float = 1,
    saturation: float = 1,
    hue: int = 0,
    contrast_first: bool = True,
) -> np.ndarray:
    """Changes brightness by a number of levels, contrast and saturation by factors up to 2, and hue
    by -30 to 30 (180 is a full turn).

    >>> change_colours(np.array([[[10, 100, 250]]], "uint8"), brightness=8, contrast=0.5).tolist()
    [[[9, 54, 127]]]
    >>> change_colours(np.array([[[200, 0, 0]]], "uint8"), hue=15).tolist()  # red to orange
    [[[200, 100, 0]]]
    """
    levels = np.arange(256)
    before = _to_uint8(levels + brightness)
    if contrast_first:
        before = _to_uint8(before * contrast)
    image = before.take(image)
    if hue or saturation != 1:
        image = _change_hue(image, saturation, hue)
    return image if contrast_first else _to_uint8(levels * contrast).take(image)


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
    padded[:] = PADDING
    padded[:rows, :columns] = image
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


def _to_uint8(values):
    return np.clip(values, 0, 255).astype("uint8")


def _change_hue(image, saturation, hue):
    """Changes saturation and hue in 16-bit integers, four times as fast as Pillow's conversion to HSV
    and back.

    With C = max - min, a channel is clip(2C - d, 0, C) below the maximum. Here d is C times the
    distance between the hue and the channel's complement, in sixths of a turn. No division is needed.
    """
    pixels = image.reshape(-1, 3)
    changed = np.empty_like(pixels)
    turn = np.int16(round(hue * 128 / 30))
    for start in range(0, len(pixels), STRIP):
        part = slice(start, start + STRIP)
        red, green, blue = (pixels[part, c].astype("int16") for c in range(3))
        top = np.maximum(np.maximum(red, green), blue)
        chroma = top - np.minimum(np.minimum(red, green), blue)
        double, sextuple = 2 * chroma, 6 * chroma
        angle = red - green + 2 * double
        np.copyto(angle, blue - red + double, where=top == green)
        np.copyto(angle, green - blue, where=top == red)
        angle += chroma * turn + 64 >> 7
        if saturation > 1:  # at most full saturation
            factor = np.minimum(np.float32(saturation), top / np.maximum(chroma, 1, dtype="float32"))
        for channel, opposite in enumerate((3, 1, -1)):
            distance = np.abs(angle + opposite * chroma)
            np.minimum(distance, np.abs(sextuple - distance), out=distance)
            below = np.clip(double - distance, 0, chroma)
            if saturation > 1:
                below = (below * factor + np.float32(0.5)).astype("int16")
            elif saturation < 1:
                below = below * np.int16(round(saturation * 128)) + 64 >> 7
            changed[part, channel] = top - below
    return changed.reshape(image.shape)
