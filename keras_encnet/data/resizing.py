"""Resizing images and masks as the reference recipes do."""

import functools

import numpy as np

from keras_encnet.data.opencv import import_opencv

STRIP = 1 << 14  # pixels resized in one step, few enough for the processor's cache
WITH_OPENCV = 8  # times as many pixels as the window's, below which OpenCV is faster


def resize_image(
    image: np.ndarray,
    height: int,
    width: int,
    window: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """Resizes an image bilinearly without antialiasing: OpenCV's `INTER_LINEAR`, to the last bit.

    Pixel centres are at half integers, and edge pixels are repeated. Weights are integers, of 2048.
    Where OpenCV is installed it does the work, several times faster, if it gives the same values.

    Args:
        image: `uint8` array `(h, w, channels)`.
        height, width: the new size in pixels.
        window: `(top, left, height, width)` of the part to compute, in pixels of the new size.
            Default: the complete image.

    Returns:
        `uint8` array `(height, width, channels)`, of the window's height and width if there is one.

    Source: OpenCV 4 and 5, `modules/imgproc/src/resize.cpp`, for 1, 3 and 4 channels. Its plain and
    its vectorized code give the same values, also where it was built with IPP.

    >>> import numpy as np
    >>> ramp = np.array([[[0], [100]]], "uint8")
    >>> resize_image(ramp, 1, 4)[0, :, 0].tolist()
    [0, 25, 75, 100]
    >>> resize_image(ramp, 1, 4, window=(0, 1, 1, 2))[0, :, 0].tolist()
    [25, 75]
    """
    top, left, rows, columns = window or (0, 0, height, width)
    if (height, width) == image.shape[:2]:
        return image[top : top + rows, left : left + columns].copy()
    # OpenCV has no windows: it would make the complete image first.
    opencv = _opencv() if height * width <= WITH_OPENCV * rows * columns else None
    if opencv:
        resized = opencv(image, (width, height)).reshape(height, width, -1)
        return resized[top : top + rows, left : left + columns]
    return resize_with_numpy(image, height, width, (top, left, rows, columns))


def resize_with_numpy(
    image: np.ndarray, height: int, width: int, window: tuple[int, int, int, int]
) -> np.ndarray:
    """What `resize_image` does where OpenCV is not installed.

    >>> import numpy as np
    >>> resize_with_numpy(np.array([[[0], [100]]], "uint8"), 1, 4, (0, 1, 1, 2))[0, :, 0].tolist()
    [25, 75]
    """
    top, left, rows, columns = window
    channels = image.shape[2]
    y, y_weights = _neighbours(image.shape[0], height, top, rows)
    x, x_weights = _neighbours(image.shape[1], width, left, columns)
    # Long rows of numbers instead of pixels of three: NumPy's inner loops are long.
    first = x[0, 0]
    image = image[:, first : x[1, -1] + 1]
    x = ((x - first)[:, :, None] * channels + np.arange(channels)).reshape(2, -1)
    x_weights, y_weights = x_weights.repeat(channels, axis=1), y_weights[:, :, None]
    # Rows that no output row needs are left out if the image shrinks.
    needed = np.union1d(*y)
    y = np.searchsorted(needed, y)
    resized = np.empty((rows, columns * channels), "uint8")
    strip = STRIP * rows // (max(rows, len(needed)) * columns) or 1
    for start in range(0, rows, strip):
        part = slice(start, start + strip)
        low, high = y[0, part][0], y[1, part][-1] + 1
        source = image[needed[low:high]].reshape(high - low, -1)
        pairs = source.take(x, axis=1) * x_weights
        across = pairs[:, 0] + pairs[:, 1]
        across >>= 4
        pairs = across.take(y[:, part] - low, axis=0)
        pairs *= y_weights[:, part]
        pairs >>= 16
        above, below = pairs
        above += below
        above += 2
        above >>= 2
        resized[part] = above
    return resized.reshape(rows, columns, channels)


def resize_mask(
    mask: np.ndarray,
    height: int,
    width: int,
    window: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """Resizes a mask by nearest neighbour like OpenCV's `INTER_NEAREST`: source `floor(i * scale)`.

    Args:
        mask: array `(h, w)`.
        height, width: the new size in pixels.
        window: `(top, left, height, width)` of the part to compute, in pixels of the new size.
            Default: the complete mask.

    Returns:
        Array `(height, width)` of the mask's dtype, of the window's size if there is one.

    >>> import numpy as np
    >>> resize_mask(np.array([[1, 2, 3]]), 1, 2).tolist()
    [[1, 2]]
    """
    top, left, rows, columns = window or (0, 0, height, width)
    if (height, width) == mask.shape:
        return mask[top : top + rows, left : left + columns].copy()
    y = _nearest(mask.shape[0], height, top, rows)
    x = _nearest(mask.shape[1], width, left, columns)
    return mask[y].take(x, axis=1)


@functools.cache
def _opencv():
    """OpenCV's own function, if it is installed and its build rounds as its plain code does."""
    cv2 = import_opencv()
    if cv2 is None:
        return None
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), "uint8")
    for height, width in ((20, 90), (74, 31)):
        expected = resize_with_numpy(image, height, width, (0, 0, height, width))
        if not np.array_equal(cv2.resize(image, (width, height)), expected):
            return None
    return cv2.resize


def _neighbours(old, new, start, count):
    """The two source indices of each output sample and their weights, `(2, count)`, as in OpenCV."""
    # 1 / (new / old) and float32 round as OpenCV does, here and below.
    at = (np.arange(start, start + count) + 0.5) * (1 / (new / old)) - 0.5
    at = at.astype("float32")
    low = np.floor(at)
    behind = at - low
    weights = np.rint(2048 * np.stack([1 - behind, behind])).astype("int32")
    return np.stack([low, low + 1]).clip(0, old - 1).astype("intp"), weights


def _nearest(old, new, start, count):
    at = np.floor(np.arange(start, start + count) * (1 / (new / old))).astype("intp")
    return np.minimum(at, old - 1)
