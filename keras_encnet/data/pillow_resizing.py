"""Resizing as Pillow does it, in PyTorch-Encoding's recipes: images are antialiased."""

import numpy as np
from PIL import Image


def antialiased_image(
    image: np.ndarray, height: int, width: int, window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Resizes an image bilinearly. Where it shrinks, each pixel is a mean over all that it covers.

    Args:
        image: `uint8` array `(h, w, 3)`.
        height, width: the new size in pixels.
        window: `(top, left, height, width)` of the part to compute, in pixels of the new size.
            Default: the complete image.

    Returns:
        `uint8` array `(height, width, 3)`, of the window's height and width if there is one.

    >>> stripes = np.zeros((2, 8, 3), "uint8")
    >>> stripes[:, ::2] = 200
    >>> antialiased_image(stripes, 1, 4)[0, 1:3, 0].tolist()
    [100, 100]
    """
    top, left, rows, columns = window or (0, 0, height, width)
    y, x = image.shape[0] / height, image.shape[1] / width
    box = (
        left * x,
        top * y,
        min((left + columns) * x, image.shape[1]),  # which rounding could exceed
        min((top + rows) * y, image.shape[0]),
    )
    return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR, box))


def centred_mask(
    mask: np.ndarray, height: int, width: int, window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Resizes a mask by nearest neighbour at the centres of the new pixels, as Pillow's `NEAREST`.

    Args:
        mask: array `(h, w)`.
        height, width, window: as for `antialiased_image`.

    Returns:
        Array `(height, width)` of the mask's dtype, of the window's size if there is one.

    >>> centred_mask(np.array([[1, 2, 3, 4]]), 1, 2).tolist()
    [[2, 4]]
    """
    top, left, rows, columns = window or (0, 0, height, width)
    y = _centres(mask.shape[0], height)[top : top + rows]
    x = _centres(mask.shape[1], width)[left : left + columns]
    return mask[y].take(x, axis=1)


def _centres(old, new):
    """The source index of each of `new` samples."""
    steps = np.full(new, old / new)
    steps[0] /= 2
    # Pillow adds up the steps; a product rounds otherwise.
    return np.minimum(np.cumsum(steps).astype("intp"), old - 1)
