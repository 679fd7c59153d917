"""Random changes of colours: brightness, contrast, saturation and hue.

Images are `uint8` `(height, width, 3)`, RGB.
"""

import functools

import numpy as np

from keras_encnet.data.opencv import import_opencv

STRIP = 1 << 13  # pixels recoloured in one step, few enough for the processor's cache


def distort(
    rng: np.random.Generator,
    image: np.ndarray,
    *,
    brightness: float | None = 32,
    contrast: tuple[float, float] | None = (0.5, 1.5),
    saturation: tuple[float, float] | None = (0.5, 1.5),
    hue: int | None = 18,
) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, each with a probability of 1/2.

    Contrast is changed before or after saturation and hue, at random. Each step is clipped and
    truncated to integer levels.

    Args:
        rng: source of randomness.
        image: the image, which is not changed.
        brightness: largest change, in levels of 256. 0 or `None` for no change.
        contrast, saturation: smallest and largest factor, or `None` for no change.
        hue: `n` changes hue by an integer from `-n` to `n - 1` (180 is a full turn), n up to 90. 0 or
            `None` for no change.

    Returns:
        The recoloured image. It may be `image` itself, if nothing changes.

    Source: mmsegmentation 1.2.2, `PhotoMetricDistortion`.

    >>> distort(np.random.default_rng(3), np.full((1, 1, 3), 100, "uint8")).shape
    (1, 1, 3)
    """
    change = {}
    if brightness and rng.random() < 0.5:
        change["brightness"] = rng.uniform(-brightness, brightness)
    change["contrast_first"] = rng.random() < 0.5
    if contrast and rng.random() < 0.5:
        change["contrast"] = rng.uniform(*contrast)
    if saturation and rng.random() < 0.5:
        change["saturation"] = rng.uniform(*saturation)
    if hue and rng.random() < 0.5:
        change["hue"] = int(rng.integers(-hue, hue))
    return change_colours(image, **change)


def change_colours(
    image: np.ndarray,
    brightness: float = 0,
    contrast: float = 1,
    saturation: float = 1,
    hue: int = 0,
    contrast_first: bool = True,
) -> np.ndarray:
    """Changes brightness by a number of levels, contrast and saturation by factors, and hue by -90 to
    90 (180 is a full turn).

    Saturation and hue are changed in OpenCV's HSV of 8 bits, as in mmsegmentation: saturation has 256
    levels and hue 180. Where OpenCV is installed it converts, faster; NumPy's results are within one
    level of its own.

    >>> change_colours(np.array([[[10, 100, 250]]], "uint8"), brightness=8, contrast=0.5).tolist()
    [[[9, 54, 127]]]
    >>> change_colours(np.array([[[200, 0, 0]]], "uint8"), hue=15).tolist()  # red to orange
    [[[200, 100, 0]]]
    """
    levels = np.arange(256)
    before, after = _to_uint8(levels + brightness), _to_uint8(levels * contrast)
    if contrast_first:
        before, after = after.take(before), _to_uint8(levels)
    # Tables of a channel of HSV each. The second change starts from the rounded colours of the first.
    in_hsv = []
    if saturation != 1:
        in_hsv.append((1, _to_uint8(levels.astype("float32") * saturation)))
    if hue:
        in_hsv.append((0, ((levels + hue) % 180).astype("uint8")))
    if not in_hsv:
        before = after.take(before)
    changes_before, changes_after = (before != levels).any(), (after != levels).any()
    if not (in_hsv or changes_before):
        return image
    to_hsv, to_rgb = _conversions()
    changed = np.empty(image.shape, "uint8")
    rows = max(1, STRIP // image.shape[1])
    for start in range(0, len(image), rows):
        part = image[start : start + rows]
        if changes_before:
            part = before.take(part)
        for channel, table in in_hsv:
            hsv = to_hsv(np.ascontiguousarray(part))
            hsv[:, :, channel] = table.take(hsv[:, :, channel])
            part = to_rgb(hsv)
        if in_hsv and changes_after:
            part = after.take(part)
        changed[start : start + rows] = part
    return changed


def _to_uint8(values):
    return np.clip(values, 0, 255).astype("uint8")


@functools.cache
def _conversions():
    """The functions from RGB to OpenCV's HSV and back, `uint8` `(height, width, 3)`: OpenCV's, if it is
    installed and its build agrees with the code below."""
    cv2 = import_opencv()
    if cv2 is None:
        return to_hsv, to_rgb
    both = [functools.partial(cv2.cvtColor, code=c) for c in (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)]
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), "uint8")
    hsv = both[0](image)
    difference = np.abs(both[1](hsv) - to_rgb(hsv).astype(int))
    return both if np.array_equal(hsv, to_hsv(image)) and difference.max() <= 1 else (to_hsv, to_rgb)


def to_hsv(image: np.ndarray) -> np.ndarray:
    """Hue (0 to 179), saturation and value (0 to 255) of an image, `uint8`, rounded as OpenCV does.

    >>> to_hsv(np.array([[[200, 100, 0], [7, 7, 7]]], "uint8")).tolist()
    [[[15, 255, 200], [0, 0, 7]]]
    """
    red, green, blue = (image[:, :, i].astype("int16") for i in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    sixths = np.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    sixths = np.where(value == red, green - blue, sixths)
    value, chroma = value.astype("float32"), chroma.astype("float32")
    hue = _rounded(sixths, 30, chroma)
    hue[hue < 0] += 180
    return np.stack([hue, _rounded(chroma, 255, value), value], axis=-1).astype("uint8")


def to_rgb(hsv: np.ndarray) -> np.ndarray:
    """The inverse of `to_hsv`: RGB, truncated as OpenCV does.

    >>> to_rgb(np.array([[[15, 255, 200], [0, 0, 7]]], "uint8")).tolist()
    [[[200, 100, 0], [7, 7, 7]]]
    """
    hue = hsv[:, :, 0].astype("intp")
    value = hsv[:, :, 2] * np.float32(1 / 255)
    chroma = hsv[:, :, 1] * np.float32(1 / 255) * value
    image = np.empty(hsv.shape, "uint8")
    for i in range(3):
        # In OpenCV's order, which decides how integers are truncated.
        lack = PART[i].take(hue) * chroma
        lack += WHOLE[i].take(hue) * chroma
        image[:, :, i] = (value - lack) * 255
    return image


def _rounded(part, steps, whole):
    """`part * steps / whole`, rounded. OpenCV takes `steps / whole` from a table in 4096ths."""
    quotient = np.rint(np.float32(4096 * steps) / np.maximum(whole, 1))
    quotient *= part  # up to 24 bits, which float32 holds exactly
    quotient *= np.float32(1 / 4096)
    quotient += np.float32(0.5)
    return np.floor(quotient, out=quotient)


def _lack():
    """What each channel lacks of the chroma, by hue: the sum of 0 or 1 and a part, `(3, 180)` each."""
    sixth, part = np.divmod(np.arange(180, dtype="float32") * np.float32(6 / 180), 1)
    sixth = sixth.astype(int)
    # Red, green and blue in each sixth of the circle.
    whole = np.array([(0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0), (1, 1, 0), (0, 1, 0)], "float32")
    sign = np.array([(0, -1, 0), (1, 0, 0), (0, 0, -1), (0, 1, 0), (-1, 0, 0), (0, 0, 1)], "float32")
    return whole[sixth].T.copy(), (sign[sixth] * part[:, None]).T.copy()


WHOLE, PART = _lack()
