"""Random resizing, cropping, flipping and colours: the augmentation of mmsegmentation's recipes.

Every function draws from the `numpy.random.Generator` it is given and from nothing else. Images are
`uint8` `(height, width, 3)`, masks integers `(height, width)`.
"""

import numpy as np
from PIL import Image

from keras_encnet.data.images import resize_image, resize_mask

# The ImageNet mean (123.675, 116.28, 103.53) in whole levels: at most 0.009 after normalization.
PADDING = (124, 116, 104)

STRIP = 1 << 14  # pixels recoloured at a time: the working set stays in the processor's cache


def augment(
    rng,
    image,
    mask,
    size,
    *,
    resize=None,
    scale=(0.5, 2.0),
    photometric=True,
    ignore_index=255,
):
    """An image and its mask resized, cropped, flipped, recoloured at random and padded to `size`.

    Args:
        rng: `numpy.random.Generator`.
        image, mask: what to augment; neither is changed.
        size: `(height, width)` of the crop in pixels.
        resize: `(long, short)` sides into which the image is fitted at ratio 1; `None` starts from
            the image's own size.
        scale: smallest and largest resize ratio.
        photometric: whether the colours are changed.
        ignore_index: the label that counts for nothing.

    Returns:
        The image and the mask, both of `size`.

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


def random_size(rng, height, width, *, resize=None, scale=(0.5, 2.0)):
    """The size of an image resized by a random ratio, its aspect kept.

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


def random_crop(rng, mask, height, width, size, *, ignore_index=255, share=0.75, redraws=10):
    """Where to crop an image resized to `(height, width)`, and the crop of its mask.

    A crop is drawn again, up to `redraws` times, while one class holds `share` or more of its
    counted pixels or is alone in it; the last one is taken as it is.

    Returns:
        The window `(top, left, height, width)` in pixels of the resized image, no larger than
        `size` nor than the image, and the resized mask within it.

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
        if draw == redraws or _varied(crop, ignore_index, share):
            return window, crop


def random_flip(rng, image, mask):
    """Both mirrored left to right, half of the time.

    >>> image, mask = np.arange(6, dtype="uint8").reshape(1, 2, 3), np.array([[0, 1]])
    >>> random_flip(np.random.default_rng(0), image, mask)[1].tolist()
    [[0, 1]]
    >>> random_flip(np.random.default_rng(1), image, mask)[1].tolist()
    [[0, 1]]
    """
    if rng.random() < 0.5:
        return image[:, ::-1], mask[:, ::-1]
    return image, mask


def distort(rng, image):
    """Brightness, contrast, saturation and hue changed at random, each half of the time.

    Brightness by up to 32 levels, contrast and saturation by a factor of 0.5 to 1.5, hue by an
    integer from -18 to 17 of 180; contrast comes before or after saturation and hue. Every step is
    clipped to whole levels.

    >>> distort(np.random.default_rng(3), np.full((1, 1, 3), 100, "uint8")).shape
    (1, 1, 3)
    """
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1
    hue = int(rng.integers(-18, 18)) if rng.random() < 0.5 else 0
    return change_colours(image, brightness, contrast, saturation, hue, contrast_first)


def change_colours(image, brightness=0, contrast=1, saturation=1, hue=0, contrast_first=True):
    """The image with given changes: brightness in levels, contrast and saturation as factors up to
    2, hue in -30 to 30 of 180.

    >>> change_colours(np.array([[[10, 100, 250]]], "uint8"), brightness=8, contrast=0.5).tolist()
    [[[9, 54, 127]]]
    >>> change_colours(np.array([[[200, 0, 0]]], "uint8"), hue=15).tolist()  # red to orange
    [[[200, 100, 0]]]
    """
    levels = np.arange(256)
    before = _whole(levels + brightness)
    if contrast_first:
        before = _whole(before * contrast)
    image = before.take(image)
    if hue or saturation != 1:
        image = _change_hue(image, saturation, hue)
    return image if contrast_first else _whole(levels * contrast).take(image)


def fit(image, mask, size, *, ignore_index=255):
    """Both resized to lie within `size`, their aspect kept, and padded right and below.

    >>> image, mask = fit(np.zeros((40, 80, 3), "uint8"), np.ones((40, 80), int), (32, 32))
    >>> mask[:, 0].tolist() == [1] * 16 + [255] * 16
    True
    """
    height, width = mask.shape
    height, width = _scaled(height, width, min(size[0] / height, size[1] / width))
    image, mask = resize_image(image, height, width), resize_mask(mask, height, width)
    return pad(image, mask, size, ignore_index=ignore_index)


def pad(image, mask, size, *, ignore_index=255):
    """Both padded right and below to `size`: the image with the mean colour, which normalization
    turns into 0, the mask with `ignore_index`.

    >>> image, mask = pad(np.zeros((1, 1, 3), "uint8"), np.zeros((1, 1), "uint8"), (1, 2))
    >>> image.tolist(), mask.tolist()
    ([[[0, 0, 0], [124, 116, 104]]], [[0, 255]])
    """
    rows, columns = mask.shape
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


def _varied(mask, ignore_index, share):
    if mask.dtype == "uint8":
        counts = np.array(Image.fromarray(mask).histogram())
        counts[ignore_index : ignore_index + 1] = 0
        counts = counts[counts > 0]
    else:
        counts = np.unique(mask[mask != ignore_index], return_counts=True)[1]
    return len(counts) > 1 and counts.max() < share * counts.sum()


def _whole(values):
    return np.clip(values, 0, 255).astype("uint8")


def _change_hue(image, saturation, hue):
    """HSV's hexagon in 16-bit integers, four times as fast as Pillow's way to HSV and back.

    With C = max - min, a channel lies below the maximum by clip(2C - d, 0, C), where d is C times
    the distance of the hue from the channel's own opposite, in sixths of a turn: no division.
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
        if saturation > 1:  # no further than to full saturation
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
