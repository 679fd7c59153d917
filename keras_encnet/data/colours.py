"""Random changes of colours: brightness, contrast, saturation and hue.

Images are `uint8` `(height, width, 3)`, RGB.
"""

import numpy as np

STRIP = 1 << 15  # pixels recoloured in one step, few enough for the processor's cache


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

    >>> change_colours(np.array([[[10, 100, 250]]], "uint8"), brightness=8, contrast=0.5).tolist()
    [[[9, 54, 127]]]
    >>> change_colours(np.array([[[200, 0, 0]]], "uint8"), hue=15).tolist()  # red to orange
    [[[200, 100, 0]]]
    """
    levels = np.arange(256)
    before, after = _to_uint8(levels + brightness), _to_uint8(levels * contrast)
    if contrast_first:
        before, after = after.take(before), _to_uint8(levels)
    changes_hue = hue or saturation != 1
    if not changes_hue:
        before = after.take(before)
    changes_before, changes_after = (before != levels).any(), (after != levels).any()
    if not (changes_hue or changes_before):
        return image
    changed = np.empty(image.shape, "uint8")
    rows = max(1, STRIP // image.shape[1])
    for start in range(0, len(image), rows):
        part = image[start : start + rows]
        if changes_before:
            part = before.take(part)
        if not changes_hue:
            changed[start : start + rows] = part
            continue
        channels = _change_hue(part, saturation, hue)
        if changes_after:
            channels = after.take(channels)
        for i, channel in enumerate(channels):
            changed[start : start + rows, :, i] = channel
    return changed


def _to_uint8(values):
    return np.clip(values, 0, 255).astype("uint8")


def _change_hue(pixels, saturation, hue):
    """Changes saturation and hue in 16-bit integers. Returns the three channels, one after the other.

    No hue and no division is needed. Turned by a sixth of a circle or less, a channel c becomes
    clip(2c - median ± shift, min, max) of the three, and the shift is max - min times the turn in
    sixths. Its sign is that of the difference between the next two channels, red after blue.
    """
    thirds, hue = divmod(hue + 30, 60)
    turn = np.int16(round((hue - 30) * 128 / 30))
    both = np.empty((5, *pixels.shape[:2]), "int16")
    for i in range(3):
        both[i] = pixels[:, :, i]
    both[3:] = both[:2]
    channels, next_ones, last_ones = both[:3], both[1:4], both[2:]
    top, bottom = channels.max(axis=0), channels.min(axis=0)
    chroma = top - bottom
    if turn:
        median = channels.sum(axis=0, dtype="int16") - top - bottom
        shift = np.sign(next_ones - last_ones)
        shift *= chroma * turn + 64 >> 7
        channels = 2 * channels
        channels -= median
        channels -= shift
        np.maximum(channels, bottom, out=channels)
        np.minimum(channels, top, out=channels)
    if saturation != 1:
        below = top - channels
        if saturation > 1:  # at most full saturation
            factor = np.minimum(np.float32(saturation), top / np.maximum(chroma, 1, dtype="float32"))
            below = (below * factor + np.float32(0.5)).astype("int16")
        else:
            below *= np.int16(round(saturation * 128))
            below += 64
            below >>= 7
        channels = top - below
    return np.roll(channels, thirds, axis=0) if thirds else channels
