"""Reading images and masks from files, and resizing them as in the reference recipes."""

import os

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from keras_encnet.data.conventions import IGNORE_INDEX

STRIP = 1 << 15  # output pixels resized in one step, few enough for the processor's cache
EXIF_ORIENTATION = 0x0112


def read_image(source: str | os.PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """Reads an image as RGB, as an image viewer shows it.

    The EXIF orientation is applied, grey becomes three equal channels, 16-bit values become 8-bit
    (their high byte), and CMYK and other colour spaces are converted. An alpha channel is dropped,
    as OpenCV and therefore mmsegmentation do.

    Args:
        source: a path, a PIL image, or an array `(height, width)` or `(height, width, 1, 3 or 4)`
            with values in [0, 255]. Floats are rounded.

    Returns:
        `uint8` array `(height, width, 3)`, RGB.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is truncated or not an image, or the array is not an image. The
            message names the file.

    >>> import numpy as np
    >>> from PIL import Image
    >>> read_image(Image.new("L", (3, 2), color=7)).tolist()[0]
    [[7, 7, 7], [7, 7, 7], [7, 7, 7]]
    >>> read_image(np.full((2, 3, 3), 254.6)).max()
    np.uint8(255)
    """
    if isinstance(source, Image.Image):
        return _rgb(_upright(source, "the image"))
    if isinstance(source, (str, os.PathLike)):
        with _open(source) as image:
            return _rgb(_upright(image, source))
    return _from_array(source)


def read_mask(source: str | os.PathLike | Image.Image, palette: ArrayLike | None = None) -> np.ndarray:
    """Reads the label values of a mask: palette indices, grey values or bits.

    A colour file with three equal channels is read as grey. Other colour files need `palette`.

    Args:
        source: a path or a PIL image.
        palette: RGB colours of the classes, `(num_classes, 3)`. The label of a pixel is the row of
            its colour. Greyscale files (modes `L`, `I`, `1`) contain labels and do not use it.

    Returns:
        Integer array `(height, width)`: `uint8`, or `int32` for files of 16 bits or more.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is truncated or not an image, has colours that are not in `palette`,
            or has colours and there is no `palette`. The message names the file.

    >>> from PIL import Image
    >>> colours = Image.new("RGB", (2, 1), color=(0, 128, 192))
    >>> read_mask(colours, palette=[(128, 0, 0), (0, 128, 192)]).tolist()
    [[1, 1]]
    """
    if isinstance(source, Image.Image):
        return _labels(source, palette, "the mask")
    with _open(source) as image:
        return _labels(image, palette, source)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """The `(height, width)` of `read_image(path)`. Only the header of the file is read."""
    with _open(path) as image:
        width, height = image.size
        sideways = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
    return (width, height) if sideways else (height, width)


def resize_image(
    image: np.ndarray,
    height: int,
    width: int,
    window: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """Resizes an image bilinearly without antialiasing, like OpenCV's `INTER_LINEAR`.

    Pixel centres are at half integers, edge pixels are repeated, and the result is rounded. OpenCV
    uses 11-bit weights, so the results may differ by one level.

    Args:
        image: `uint8` array `(h, w, channels)`.
        height, width: the new size in pixels.
        window: `(top, left, height, width)` of the part to compute, in pixels of the new size.
            Default: the complete image.

    Returns:
        `uint8` array `(height, width, channels)`, of the window's height and width if there is one.

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
    y0, y1, wy = _neighbours(image.shape[0], height, top, rows)
    x0, x1, wx = _neighbours(image.shape[1], width, left, columns)
    first = x0[0]
    image, x0, x1 = image[:, first : x1[-1] + 1], x0 - first, x1 - first
    wy, wx = wy[:, None, None], wx[:, None]
    resized = np.empty((rows, columns, image.shape[2]), "uint8")
    strip = max(1, STRIP // columns)
    for start in range(0, rows, strip):
        part = slice(start, start + strip)
        above = image[y0[part]].astype("float32")
        below = image[y1[part]].astype("float32")
        below -= above
        below *= wy[part]
        below += above
        before, after = below.take(x0, axis=1), below.take(x1, axis=1)
        after -= before
        after *= wx
        after += before
        after += 0.5
        resized[part] = after
    return resized


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


def source_position(index, old, new):
    """Where output pixels `index` lie among `old` pixels that are resized to `new`.

    Returns the pixel at or before each, from -1, and how far behind it they lie, in units of
    1 / (2 · new): integers, and so exact. Takes arrays and integers, or tensors.

    >>> source_position(np.arange(4), 2, 4)
    (array([-1,  0,  0,  1]), array([6, 2, 6, 2]))
    """
    position = (2 * index + 1) * old + new
    return position // (2 * new) - 1, position % (2 * new)


def _neighbours(old, new, start, count):
    """The two source indices of each output sample, and the weight of the second."""
    low, behind = source_position(np.arange(start, start + count), old, new)
    weight = (behind / (2 * new)).astype("float32")
    return np.clip(low, 0, old - 1), np.clip(low + 1, 0, old - 1), weight


def _nearest(old, new, start, count):
    # 1 / (new / old) instead of old / new, to be rounded like OpenCV's where it is an integer.
    at = np.floor(np.arange(start, start + count) * (1 / (new / old))).astype("intp")
    return np.minimum(at, old - 1)


def _open(path):
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image file {os.fspath(path)!r}.") from None
    except IsADirectoryError:
        raise ValueError(
            f"An image must be a file. Received: {os.fspath(path)!r}, a directory"
        ) from None
    except Exception as error:
        raise _unreadable(path, error) from error


def _upright(image, name):
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name, error):
    return ValueError(
        f"Cannot read {os.fspath(name)!r}: the file is truncated or not an image that Pillow "
        f"can read ({error}). Replace it or leave it out."
    )


def _rgb(image):
    if image.mode[0] in "IF":  # I;16 and its variants, I, F
        values = np.asarray(image)
        if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255):
            values = values.astype("int32") >> 8
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype("uint8"))
    return np.array(image.convert("RGB"))


def _from_array(source):
    array = np.asarray(source)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype.kind not in "uif":
        raise ValueError(
            "An image must be a path, a PIL image, or an array (height, width, 3) of numbers in "
            f"[0, 255]. Received: {type(source).__name__} of shape {array.shape} and dtype "
            f"{array.dtype}. Pass one image at a time, channels last."
        )
    if array.dtype != "uint8":
        if not np.isfinite(array).all():
            raise ValueError("An image must have finite values in [0, 255]. Received: NaN or infinity")
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            raise ValueError(
                f"An image must have values in [0, 255]. Received: {array.min()} to {array.max()}. "
                "Scale them: divide 16-bit values by 257, for instance."
            )
        array = np.rint(array).astype("uint8")
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _labels(image, palette, name):
    step = _grey_step(image)
    image = _upright(image, name)
    if image.mode[0] in "1IF" or image.mode == "L" or (image.mode == "P" and palette is None):
        labels = _integers(np.asarray(image), name) // step
        return labels.astype("uint8" if image.mode in "1LP" else "int32")
    if image.mode == "LA":
        return np.array(image.getchannel("L"))
    if image.mode not in ("P", "PA", "RGB", "RGBA"):
        raise ValueError(
            f"The mask {os.fspath(name)!r} must contain labels (modes L, P, I, 1), or RGB colours "
            f"with `palette=`. Received: mode {image.mode}"
        )
    colours = np.asarray(image.convert("RGB"))
    if palette is not None:
        return _from_colours(colours, palette, name)
    if (colours == colours[:, :, :1]).all():
        return np.ascontiguousarray(colours[:, :, 0])
    raise ValueError(
        f"The mask {os.fspath(name)!r} must contain labels if there is no `palette`. Received: "
        "colours. Pass `palette=`, the (num_classes, 3) RGB colours in label order."
    )


def _integers(values, name):
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise ValueError(
            f"The mask {os.fspath(name)!r} must contain integer labels. Received: fractions"
        )
    return values


def _grey_step(image):
    """The factor by which Pillow scaled the values: it expands 2- and 4-bit grey PNG to 0 … 255."""
    tiles = getattr(image, "tile", None)
    raw_mode = tiles[0][3] if tiles else None
    return {"L;2": 85, "L;4": 17}.get(raw_mode, 1) if isinstance(raw_mode, str) else 1


def _from_colours(colours, palette, name):
    palette = np.asarray(palette)
    if palette.ndim != 2 or palette.shape[1] != 3:
        raise ValueError(
            f"`palette` must have shape (num_classes, 3), RGB colours. Received: shape {palette.shape}"
        )
    codes = _code(palette)
    order = np.argsort(codes, kind="stable")
    pixels = _code(colours)
    nearest = np.searchsorted(codes[order], pixels).clip(max=len(codes) - 1)
    labels = order[nearest]
    invalid = codes[labels] != pixels
    if invalid.any():
        found, counts = np.unique(pixels[invalid], return_counts=True)
        most = np.argsort(-counts)[:5]
        listed = ", ".join(
            f"({c >> 16}, {c >> 8 & 255}, {c & 255}) in {n} pixels"
            for c, n in zip(found[most].tolist(), counts[most].tolist(), strict=True)
        )
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ValueError(
            f"The mask {os.fspath(name)!r} must contain only colours that are in `palette`. Received: "
            f"{listed}{more}. Add them to `palette`, or map them to a label with `label_map`, "
            f"{{(0, 0, 0): {IGNORE_INDEX}}} for instance. JPEG and antialiasing create new colours: "
            "save masks as PNG."
        )
    return labels.astype("uint8" if len(palette) <= 256 else "int32")


def _code(colours):
    """One integer per colour."""
    colours = colours.astype("int32")
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
